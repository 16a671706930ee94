//! Who asks: the session that a call belongs to, and how its calls are stopped.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// Stops the calls that carry it, for good: one a query.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every call that carries the token, running or yet to come, with [`crate::Error::Cancelled`].
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether `other` is this one, and no other of the same state.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A session as the engine knows it: clients take turns at the engine, and each can stop its own calls.
///
/// Clones are the same client.
#[derive(Debug, Clone)]
pub struct Client {
    session: Arc<Session>,
    tokens: Vec<CancelToken>,
}

/// What the clones of a client share.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    /// Counts the calls of `cancel_running`: a run that began under an older number is over.
    generation: AtomicU64,
    /// Of the queries that run.
    queries: Mutex<Vec<Weak<AtomicBool>>>,
    /// Bytes of images that this client has in hand (see `inputs`).
    pub(super) held: AtomicUsize,
}

impl Client {
    /// A new client, different from all others.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            session: Arc::new(Session {
                id,
                generation: AtomicU64::new(0),
                queries: Mutex::default(),
                held: AtomicUsize::new(0),
            }),
            tokens: vec![],
        }
    }

    /// The same client, whose calls end with `token` as well.
    pub fn with_token(&self, token: CancelToken) -> Self {
        let mut client = self.clone();
        client.tokens.push(token);
        client
    }

    /// Ends all calls of this client that run now, and its queries that join tables or call our functions, with
    /// [`crate::Error::Cancelled`]. Later ones are unharmed.
    pub fn cancel_running(&self) {
        self.session.generation.fetch_add(1, Ordering::AcqRel);
        for query in self.session.queries.lock().unwrap_or_else(|e| e.into_inner()).drain(..) {
            if let Some(query) = query.upgrade() {
                query.store(true, Ordering::Release);
            }
        }
    }

    /// Makes [`Client::cancel_running`] cancel `token` too.
    pub(crate) fn cancel_with_others(&self, token: &CancelToken) {
        let mut queries = self.session.queries.lock().unwrap_or_else(|e| e.into_inner());
        queries.retain(|query| query.strong_count() > 0);
        queries.push(Arc::downgrade(&token.0));
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// What one call holds to learn that it is to stop.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket {
            generation: self.session.generation.load(Ordering::Acquire),
            client: self.clone(),
            withdrawn: AtomicBool::new(false),
        }
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether one call is still wanted. Once it is not, it never is again.
#[derive(Debug)]
pub(super) struct Ticket {
    client: Client,
    generation: u64,
    withdrawn: AtomicBool,
}

impl Ticket {
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The call itself gave up.
    pub(super) fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Release);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
            || self.client.session.generation.load(Ordering::Acquire) != self.generation
            || self.client.tokens.iter().any(CancelToken::is_cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancelling_what_runs_spares_what_follows() {
        let (a, b) = (Client::new(), Client::new());
        let (first, other) = (a.ticket(), b.ticket());
        a.clone().cancel_running();
        assert!(first.is_cancelled());
        assert!(!other.is_cancelled());
        assert!(!a.ticket().is_cancelled());
    }

    #[test]
    fn a_query_ends_with_the_calls_of_its_client() {
        let (a, b) = (Client::new(), Client::new());
        let tokens = [CancelToken::new(), CancelToken::new(), CancelToken::new()];
        a.cancel_with_others(&tokens[0]);
        b.cancel_with_others(&tokens[1]);
        a.clone().cancel_running();
        a.cancel_with_others(&tokens[2]);
        assert_eq!(tokens.map(|token| token.is_cancelled()), [true, false, false]);
    }

    #[test]
    fn a_token_holds_for_good() {
        let (client, token) = (Client::new(), CancelToken::new());
        let query = client.with_token(token.clone());
        let before = query.ticket();
        token.cancel();
        assert!(before.is_cancelled() && query.ticket().is_cancelled());
        assert!(!client.ticket().is_cancelled());
    }
}
