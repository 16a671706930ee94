//! Clients of the engine: the session that a call belongs to, and cancellation of its calls.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::stats::Meter;

/// Permanently cancels the calls that carry it; each query has its own.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// Creates a token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every running or later call that carries the token with [`crate::Error::Cancelled`].
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether both are clones of the same token, whatever their state.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether the token was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The engine's view of a session: the queue is round-robin over clients, and each client can cancel its own calls.
///
/// Clones are the same client.
#[derive(Debug, Clone)]
pub struct Client {
    session: Arc<Session>,
    tokens: Vec<CancelToken>,
    meter: Meter,
}

/// State shared by the clones of a client.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    /// Incremented by each `cancel_running`: calls that began under an older generation are cancelled.
    generation: AtomicU64,
    /// Cancellation flags of the running queries.
    queries: Mutex<Vec<Weak<AtomicBool>>>,
    /// Bytes of this client's in-flight images (see `inputs`).
    pub(super) held: AtomicUsize,
}

impl Client {
    /// Creates a client distinct from all others.
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
            meter: Meter::default(),
        }
    }

    /// The same client, with calls that `token` cancels as well.
    pub fn with_token(&self, token: CancelToken) -> Self {
        let mut client = self.clone();
        client.tokens.push(token);
        client
    }

    /// The same client, with calls whose work `meter` counts.
    pub fn with_meter(&self, meter: Meter) -> Self {
        Self { meter, ..self.clone() }
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Ends all running calls of this client, and its queries that join tables or call our functions, with
    /// [`crate::Error::Cancelled`]. Later calls are unaffected.
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

    /// Creates the ticket with which one call detects its cancellation.
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

/// Cancellation state of one call. A cancelled ticket stays cancelled.
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

    /// Marks the call as given up by its own caller.
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
