//! The job queue: round-robin over clients; compatible jobs of all clients are added to the same batch.
//!
//! Pure: it holds no locks and no models. The engine locks it and counts the in-flight bytes.

use std::collections::VecDeque;

/// Maximum texts per call of the text encoder.
const BATCH_TEXTS: usize = 64;

/// Maximum tokens of a batch. It bounds how long a client waits for its turn behind one that compares an image with
/// thousands of texts; the remaining texts find the image encoded.
const BATCH_TOKENS: usize = 4096;

/// Properties of a job that the queue needs.
pub(super) trait Item {
    /// Whether it can share a batch with `first`: the same model, kind of work and options.
    fn joins(&self, first: &Self) -> bool;
    /// Identity of the image it needs, if any.
    fn image(&self) -> Option<usize>;
    /// Tokens that it passes through the model.
    fn tokens(&self) -> usize;
    /// Maximum distinct images of a batch that starts with this job.
    fn max_images(&self) -> usize;
    /// Whether it can run on the `device`-th device of its model.
    fn runs_on(&self, device: usize) -> bool;
}

/// Current fill level of the engine and its limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fill {
    /// In-flight bytes, of all clients and (`own_bytes`) of the requesting client.
    pub(super) bytes: usize,
    pub(super) own_bytes: usize,
    pub(super) max_bytes: usize,
    pub(super) max_jobs: usize,
}

#[derive(Debug)]
pub(super) struct Queue<J> {
    /// Clients with queued jobs or with calls waiting to queue some; the first one is next.
    lanes: VecDeque<Lane<J>>,
    jobs: usize,
    pub(super) closed: bool,
}

#[derive(Debug)]
struct Lane<J> {
    client: u64,
    jobs: VecDeque<J>,
    /// Number of calls waiting for room.
    waiting: usize,
}

impl<J: Item> Queue<J> {
    pub(super) fn new() -> Self {
        Self { lanes: VecDeque::new(), jobs: 0, closed: false }
    }

    pub(super) fn len(&self) -> usize {
        self.jobs
    }

    /// Number of calls waiting for room.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.waiting).sum()
    }

    /// Number of clients with queued jobs or waiting calls.
    #[cfg(test)]
    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    fn lane(&mut self, client: u64) -> &mut Lane<J> {
        let i = self.lanes.iter().position(|lane| lane.client == client).unwrap_or_else(|| {
            self.lanes.push_back(Lane { client, jobs: VecDeque::new(), waiting: 0 });
            self.lanes.len() - 1
        });
        &mut self.lanes[i]
    }

    /// Registers a waiting call of `client`: from now on the other clients leave it its share of the room.
    pub(super) fn wait(&mut self, client: u64) {
        self.lane(client).waiting += 1;
    }

    pub(super) fn waited(&mut self, client: u64) {
        self.lane(client).waiting -= 1;
        self.sweep();
    }

    /// Whether `client` may add `bytes` to the in-flight images (0: only a job).
    ///
    /// A client without queued jobs may always add a job, and an image if it has none in flight, or it might never get
    /// a turn. Otherwise clients share the room evenly.
    pub(super) fn has_room(&mut self, client: u64, bytes: usize, fill: &Fill) -> bool {
        let own = self.lane(client).jobs.len();
        let share = self.lanes.len();
        self.sweep();
        if own == 0 && (bytes == 0 || fill.own_bytes == 0) {
            return true;
        }
        let bytes_fit =
            bytes == 0 || fill.bytes + bytes <= fill.max_bytes && fill.own_bytes + bytes <= fill.max_bytes / share;
        bytes_fit && self.jobs < fill.max_jobs && own < fill.max_jobs / share
    }

    pub(super) fn push(&mut self, client: u64, jobs: Vec<J>) {
        self.jobs += jobs.len();
        self.lane(client).jobs.extend(jobs);
    }

    /// Removes and returns all jobs for which `gone` holds.
    pub(super) fn remove(&mut self, mut gone: impl FnMut(&J) -> bool) -> Vec<J> {
        let mut out = vec![];
        for lane in &mut self.lanes {
            for job in std::mem::take(&mut lane.jobs) {
                if gone(&job) { out.push(job) } else { lane.jobs.push_back(job) }
            }
        }
        self.jobs -= out.len();
        self.sweep();
        out
    }

    fn sweep(&mut self) {
        self.lanes.retain(|lane| lane.waiting > 0 || !lane.jobs.is_empty());
    }

    /// Puts jobs that a device could not do in front of those of `client`.
    pub(super) fn push_back(&mut self, client: u64, jobs: Vec<J>) {
        self.jobs += jobs.len();
        let lane = self.lane(client);
        jobs.into_iter().rev().for_each(|job| lane.jobs.push_front(job));
    }

    /// Takes the next batch for a device: the oldest job of the client whose turn it is, then all compatible jobs within
    /// the bounds, that client's first, each client's oldest first. Empty if no job is queued for the device. Cancelled
    /// jobs must be removed before.
    pub(super) fn take(&mut self, device: usize) -> Vec<J> {
        let next = |lane: &Lane<J>| lane.jobs.iter().position(|job| job.runs_on(device));
        let turn = self.lanes.iter().enumerate().find_map(|(turn, lane)| Some((turn, next(lane)?)));
        let Some((turn, place)) = turn else { return vec![] };
        // Lanes before it wait for room or for other devices. This client's jobs are considered first; afterwards it
        // moves to the end of the line.
        if let Some(lane) = self.lanes.remove(turn) {
            self.lanes.push_front(lane);
        }
        let Some(first) = self.lanes[0].jobs.remove(place) else { return vec![] };
        let mut bounds = Bounds::new(&first);
        let mut batch = vec![first];
        for lane in &mut self.lanes {
            for job in std::mem::take(&mut lane.jobs) {
                if job.runs_on(device) && job.joins(&batch[0]) && bounds.admit(&job) {
                    batch.push(job)
                } else {
                    lane.jobs.push_back(job)
                }
            }
        }
        self.lanes.rotate_left(1);
        self.jobs -= batch.len();
        self.sweep();
        batch
    }
}

/// Remaining capacity of a batch being built.
struct Bounds {
    images: Vec<usize>,
    max_images: usize,
    texts: usize,
    tokens: usize,
}

impl Bounds {
    fn new(first: &impl Item) -> Self {
        Self {
            images: first.image().into_iter().collect(),
            max_images: first.max_images().max(1),
            texts: BATCH_TEXTS - 1,
            tokens: BATCH_TOKENS.saturating_sub(first.tokens()),
        }
    }

    fn admit(&mut self, job: &impl Item) -> bool {
        if job.tokens() > self.tokens {
            return false;
        }
        match job.image() {
            Some(image) if self.images.contains(&image) => {}
            Some(image) if self.images.len() < self.max_images => self.images.push(image),
            None if self.texts > 0 => self.texts -= 1,
            _ => return false,
        }
        self.tokens -= job.tokens();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Fake {
        client: u64,
        kind: char,
        image: Option<usize>,
        tokens: usize,
    }

    impl Item for Fake {
        fn joins(&self, first: &Self) -> bool {
            self.kind == first.kind
        }
        fn image(&self) -> Option<usize> {
            self.image
        }
        fn tokens(&self) -> usize {
            self.tokens
        }
        fn max_images(&self) -> usize {
            2
        }
        fn runs_on(&self, device: usize) -> bool {
            device == 0 || self.image.is_some_and(|image| image % 10 == device)
        }
    }

    fn queue(jobs: &[(u64, char, usize)]) -> Queue<Fake> {
        let mut queue = Queue::new();
        for &(client, kind, image) in jobs {
            queue.push(client, vec![Fake { client, kind, image: Some(image), tokens: 1 }]);
        }
        queue
    }

    fn names(batch: &[Fake]) -> Vec<(u64, usize)> {
        batch.iter().map(|job| (job.client, job.image.unwrap())).collect()
    }

    #[test]
    fn clients_take_turns() {
        let mut q = queue(&[(1, 'a', 0), (1, 'a', 1), (1, 'a', 2), (1, 'a', 3), (1, 'a', 4), (2, 'b', 9), (3, 'c', 8)]);
        let turns: Vec<_> = std::iter::from_fn(|| Some(names(&q.take(0))).filter(|b| !b.is_empty())).collect();
        assert_eq!(turns, [vec![(1, 0), (1, 1)], vec![(2, 9)], vec![(3, 8)], vec![(1, 2), (1, 3)], vec![(1, 4)]]);
        assert_eq!(q.len(), 0);
    }

    #[test]
    fn a_batch_takes_every_job_of_its_images_and_no_further_image() {
        let mut q = queue(&[(1, 'm', 0), (1, 'c', 0), (1, 'm', 1), (2, 'm', 5), (2, 'm', 1), (1, 'm', 2), (1, 'm', 0)]);
        assert_eq!(names(&q.take(0)), [(1, 0), (1, 1), (1, 0), (2, 1)]);
        assert_eq!(names(&q.take(0)), [(2, 5), (1, 2)]);
        assert_eq!(names(&q.take(0)), [(1, 0)]);
    }

    #[test]
    fn room_left_goes_to_other_clients() {
        let mut q = queue(&[(1, 'm', 0), (2, 'm', 1), (3, 'm', 2)]);
        assert_eq!(names(&q.take(0)), [(1, 0), (2, 1)]);
        assert_eq!(names(&q.take(0)), [(3, 2)]);
    }

    #[test]
    fn tokens_and_texts_bound_a_batch() {
        let mut q = Queue::new();
        let text = |tokens| Fake { client: 1, kind: 't', image: None, tokens };
        q.push(1, vec![text(BATCH_TOKENS * 2), text(1)]);
        assert_eq!((q.take(0).len(), q.take(0).len()), (1, 1));
        q.push(1, (0..BATCH_TEXTS + 5).map(|_| text(1)).collect());
        assert_eq!((q.take(0).len(), q.take(0).len()), (BATCH_TEXTS, 5));
        let score = |_| Fake { client: 1, kind: 'm', image: Some(7), tokens: BATCH_TOKENS / 4 };
        q.push(1, (0..5).map(score).collect());
        assert_eq!((q.take(0).len(), q.take(0).len()), (4, 1));
    }

    #[test]
    fn room_is_shared_and_nobody_is_kept_out() {
        let mut q = queue(&[(1, 'm', 0), (1, 'm', 1), (1, 'm', 2)]);
        let fill = |bytes, own_bytes| Fill { bytes, own_bytes, max_bytes: 100, max_jobs: 8 };
        assert!(q.has_room(1, 10, &fill(90, 90)));
        assert!(!q.has_room(1, 11, &fill(90, 90)));
        // A new client may always add its first image, however full the engine is; then it waits for its half.
        assert!(q.has_room(2, 1000, &fill(100, 0)));
        assert!(!q.has_room(2, 10, &fill(100, 10)));
        q.wait(2);
        assert!(!q.has_room(1, 10, &fill(60, 50)), "above its half");
        let more = q.lane(1).jobs.clone();
        q.push(1, more.into());
        assert!(!q.has_room(1, 0, &fill(0, 0)), "six of eight jobs, of which four are its share");
        q.waited(2);
        assert!(q.has_room(1, 0, &fill(0, 0)));
        // Nothing is queued, but an image is in flight between two slices of its jobs: only the job limit applies.
        assert!(q.has_room(3, 0, &fill(1000, 1000)));
    }

    #[test]
    fn a_device_takes_what_runs_there() {
        let mut q = queue(&[(1, 'm', 0), (1, 'm', 11), (2, 'm', 22), (3, 'm', 21), (3, 'c', 31), (1, 'm', 2)]);
        assert_eq!(names(&q.take(1)), [(1, 11), (3, 21)]);
        assert_eq!(names(&q.take(1)), [(3, 31)]);
        let back = q.take(2);
        assert_eq!(names(&back), [(2, 22), (1, 2)]);
        assert_eq!(q.take(2), []);
        q.push_back(1, back);
        assert_eq!(names(&q.take(0)), [(2, 22), (1, 2)]);
        assert_eq!((names(&q.take(0)), q.len(), q.lanes.len()), (vec![(1, 0)], 0, 0));
    }

    #[test]
    fn removing_leaves_the_rest_in_order() {
        let mut q = queue(&[(1, 'm', 0), (2, 'm', 1), (1, 'm', 2), (1, 'm', 3)]);
        assert_eq!(names(&q.remove(|job| job.image == Some(2) || job.client == 2)), [(1, 2), (2, 1)]);
        assert_eq!((q.len(), q.lanes.len()), (2, 1));
        assert_eq!(names(&q.take(0)), [(1, 0), (1, 3)]);
    }
}
