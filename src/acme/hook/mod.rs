//! Hooks: webhooks and programs that are told what becomes of certificates.
//!
//! Answers "who is told of what, and when again?". Every event reaches every hook that wants it at
//! least once: it lies on the disk until then, is tried for three days, and has an id that tells
//! repetitions apart. A hook that hangs delays nobody but itself.

mod delivery;
mod queue;
mod shelf;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::delivery::{Carrier, DeliveryError};
use self::queue::{EventKey, HookKey, LONGEST_WAIT, Next, Queue, Tries, Waiting};
use self::shelf::Shelf;
use super::event::{Event, Events, Told};
use super::http::{Client, Limits};
use super::time::unix;
use crate::config::acme_event::{Action, EventKind, Hook as Spec};
use crate::telemetry::metrics::{Delivery, StoreOp};
use crate::tls::certificate::sha256;
use crate::tls::private_dir::Lock;
use crate::tls::{ClientConfigError, SystemRoots, client_config};

/// Whom the configuration in force wants to be told.
#[derive(Debug)]
pub struct Plan {
    hooks: BTreeMap<HookKey, Hook>,
    storage: PathBuf,
}

/// One that is told.
#[derive(Debug)]
struct Hook {
    on: BTreeSet<EventKind>,
    carrier: Arc<Carrier>,
}

/// The task that tells the hooks.
#[derive(Debug)]
pub struct Hooks {
    told: Told,
    events: Events,
    plans: watch::Receiver<Option<Arc<Plan>>>,
    plan: Option<Arc<Plan>>,
    /// Where events lie; `None` where nothing can.
    shelf: Option<Shelf>,
    /// This process tells them, and no other on the same directory.
    deliver: Option<Lock>,
    queue: Queue,
    /// Those that are being told something.
    busy: BTreeSet<HookKey>,
    deliveries: JoinSet<Done>,
    /// When the disk is looked at again.
    look_at: i64,
    host: String,
}

/// How a delivery ended.
struct Done {
    hook: HookKey,
    carrier: Arc<Carrier>,
    event: EventKey,
    outcome: Result<(), DeliveryError>,
}

/// How often the disk is looked at for what other processes have put there, in seconds.
const LOOK_AGAIN: i64 = 10;

impl Plan {
    /// Whoever `hooks` names. Events lie under `storage`.
    ///
    /// # Errors
    /// [`ClientConfigError`] when a webhook is reached over https and there is nobody to trust.
    pub fn new(hooks: &[Spec], storage: &Path) -> Result<Self, ClientConfigError> {
        let is_secure = |hook: &Spec| {
            matches!(&hook.action, Action::Webhook(url)
                if url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")))
        };
        let tls = match hooks.iter().any(is_secure) {
            true => Some(client_config::authority(None, &SystemRoots::load())?),
            false => None,
        };
        let mut plan = Self { hooks: BTreeMap::new(), storage: storage.to_owned() };
        for spec in hooks {
            let (text, carrier) = match &spec.action {
                Action::Webhook(url) => {
                    let limits = Limits::default();
                    let connect = limits.connect.min(spec.timeout);
                    let limits = Limits { connect, request: spec.timeout };
                    let client = Client::with_plain(tls.clone(), limits);
                    (format!("webhook\n{url}"), Carrier::Webhook { url: url.clone(), client })
                }
                Action::Run(run) => {
                    let carrier = Carrier::Run { run: run.clone(), patience: spec.timeout };
                    (format!("run\n{}", run.join("\n")), carrier)
                }
            };
            // A name that tells nothing of a URL, which may hold a secret.
            let digest = sha256(text.as_bytes());
            let key = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            // One that is named twice is told once of what either wants.
            let hook = plan
                .hooks
                .entry(key)
                .or_insert_with(|| Hook { on: BTreeSet::new(), carrier: Arc::new(carrier) });
            hook.on.extend(&spec.on);
        }
        Ok(plan)
    }

    /// Who wants to know of it.
    fn wanting(&self, kind: EventKind) -> BTreeMap<HookKey, Tries> {
        let wants = self.hooks.iter().filter(|(_, hook)| hook.on.contains(&kind));
        wants.map(|(key, _)| (key.clone(), Tries::default())).collect()
    }
}

impl Hooks {
    /// Tells whoever comes through `plans` of what is `told`.
    #[must_use]
    pub fn new(told: Told, events: Events, plans: watch::Receiver<Option<Arc<Plan>>>) -> Self {
        Self {
            told,
            events,
            plans,
            plan: None,
            shelf: None,
            deliver: None,
            queue: Queue::default(),
            busy: BTreeSet::new(),
            deliveries: JoinSet::new(),
            look_at: i64::MAX,
            host: host_name(),
        }
    }

    /// Tells the hooks until `stop`. What they were not told by then is told after the next start.
    pub async fn run(mut self, stop: CancellationToken) {
        self.plans.mark_changed();
        let work = async {
            loop {
                let wake = self.begin(now());
                let pause = u64::try_from(wake.saturating_sub(now())).unwrap_or(0);
                self.events.metrics().certificates.pending(self.queue.len());
                tokio::select! {
                    // What is told is for the hooks of the plan that is in force by then.
                    biased;
                    changed = self.plans.changed() => match changed {
                        Ok(()) => self.adopt().await,
                        Err(_) => return,
                    },
                    event = self.told.recv() => match event {
                        Some(event) => self.take_in(event).await,
                        None => return,
                    },
                    Some(done) = self.deliveries.join_next(), if !self.deliveries.is_empty() => {
                        // None panics, and none is ended before this task.
                        if let Ok(done) = done {
                            self.settle(done).await;
                        }
                    }
                    () = tokio::time::sleep(Duration::from_secs(pause.clamp(1, 60))) => {}
                }
                if self.look_at <= now() {
                    self.look().await;
                }
            }
        };
        let _ = stop.run_until_cancelled(work).await;
        // What happened last is kept for the next start.
        while let Ok(event) = self.told.try_recv() {
            self.take_in(event).await;
        }
    }

    /// Turns to the plan of another configuration, and to what lies on its disk.
    async fn adopt(&mut self) {
        let plan = self.plans.borrow_and_update().clone();
        let is_elsewhere =
            self.plan.as_ref().map(|plan| &plan.storage) != plan.as_ref().map(|plan| &plan.storage);
        self.plan = plan;
        if is_elsewhere {
            self.queue.clear();
            (self.shelf, self.deliver, self.look_at) = (None, None, i64::MAX);
            let Some(plan) = &self.plan else { return };
            let storage = plan.storage.clone();
            match blocking(move || Shelf::open(&storage)).await {
                Ok(shelf) => self.shelf = Some(shelf),
                Err(error) => self.tell_unkept(&error),
            }
        }
        self.forget_unwanted().await;
        self.look().await;
    }

    /// Strikes what hooks were to be told that are no longer there.
    async fn forget_unwanted(&mut self) {
        let Some(plan) = self.plan.clone() else { return };
        for (key, hook) in self.queue.hooks() {
            if !plan.hooks.contains_key(&hook) && self.queue.strike(&key, &hook).is_some() {
                self.remove(&key.1).await;
            }
        }
    }

    /// Looks for what lies on the disk: after a start, and from other processes.
    async fn look(&mut self) {
        let Some(shelf) = self.shelf.clone() else { return };
        self.look_at = now() + LOOK_AGAIN;
        if self.deliver.is_none() {
            let shelf = shelf.clone();
            match blocking(move || shelf.try_deliver()).await {
                Ok(lock) => self.deliver = lock,
                Err(error) => return self.tell_unkept(&error),
            }
            if self.deliver.is_none() {
                return;
            }
        }
        let listed = blocking({
            let shelf = shelf.clone();
            move || shelf.ids()
        });
        let ids = match listed.await {
            Ok(ids) => ids,
            Err(error) => return self.tell_unkept(&error),
        };
        let known = self.queue.ids();
        for id in ids.into_iter().filter(|id| !known.contains(id)) {
            let (shelf, name) = (shelf.clone(), id.clone());
            match blocking(move || shelf.get(&name)).await {
                Ok(Some(waiting)) => self.find(id, waiting).await,
                Ok(None) => {}
                Err(error) => self.tell_unkept(&error),
            }
        }
    }

    /// Takes in what was found on the disk: tried at once, and no longer for hooks that are gone.
    async fn find(&mut self, id: String, mut waiting: Waiting) {
        let Some(plan) = self.plan.clone() else { return };
        let is_over = waiting.at + LONGEST_WAIT < now();
        let was_empty = waiting.hooks.is_empty();
        waiting.hooks.retain(|hook, _| plan.hooks.contains_key(hook));
        if waiting.hooks.is_empty() && !was_empty && !is_over {
            // For hooks of another process, or of another configuration.
            return;
        }
        if waiting.hooks.is_empty() || is_over {
            self.tell_dropped(&waiting);
            return self.remove(&id).await;
        }
        for tries in waiting.hooks.values_mut() {
            tries.next_at = tries.next_at.min(now());
        }
        self.add(&id, waiting).await;
    }

    /// Keeps an event for whoever wants to know of it.
    async fn take_in(&mut self, event: Event) {
        let Some(plan) = &self.plan else { return };
        let hooks = plan.wanting(event.kind());
        if hooks.is_empty() {
            return;
        }
        let (id, at) = (event.id(), event.moment());
        let payload = event.payload(&id, &self.host);
        let waiting = Waiting { order: millis(), at, payload, hooks };
        let mut is_kept = false;
        if let Some(shelf) = self.shelf.clone() {
            let (id, waiting, once) = (id.clone(), waiting.clone(), event.once());
            let put = blocking(move || match once {
                Some(once) => shelf.put_once(&id, &waiting, &once, now()),
                None => shelf.put(&id, &waiting).map(|()| true),
            });
            match put.await {
                Ok(true) => is_kept = true,
                Ok(false) => return,
                Err(error) => self.tell_unkept(&error),
            }
        }
        // What is kept where another process tells the hooks is that one's.
        if (self.deliver.is_some() || !is_kept) && !self.queue.has(&id) {
            self.add(&id, waiting).await;
        }
    }

    async fn add(&mut self, id: &str, waiting: Waiting) {
        for (key, dropped) in self.queue.add(id, waiting) {
            self.tell_dropped(&dropped);
            self.remove(&key.1).await;
        }
    }

    /// Tells every hook that is not busy what is its turn. Returns when there is more.
    fn begin(&mut self, now: i64) -> i64 {
        let mut wake = self.look_at;
        let Some(plan) = &self.plan else { return wake };
        for (name, hook) in &plan.hooks {
            if self.busy.contains(name) {
                continue;
            }
            let event = match self.queue.next(name, now) {
                Next::Now(event) => event,
                Next::At(at) => {
                    wake = wake.min(at);
                    continue;
                }
                Next::Nothing => continue,
            };
            let Some(waiting) = self.queue.get(&event) else { continue };
            let (payload, carrier) = (waiting.payload.clone(), Arc::clone(&hook.carrier));
            self.busy.insert(name.clone());
            let hook = name.clone();
            self.deliveries.spawn(async move {
                let delivery = AssertUnwindSafe(carrier.deliver(&payload)).catch_unwind().await;
                // The panic is in the log.
                let outcome = delivery.unwrap_or(Err(DeliveryError::Fault));
                Done { hook, carrier, event, outcome }
            });
        }
        wake
    }

    /// Notes how a delivery ended.
    async fn settle(&mut self, done: Done) {
        self.busy.remove(&done.hook);
        if let Some(is_over) = self.judge(&done) {
            self.keep_or_remove(&done.event, is_over).await;
        }
    }

    /// Whether all have been told of the event, or are not going to be; `None` for one that is not
    /// there any more, since a reload has taken the hook away.
    fn judge(&mut self, done: &Done) -> Option<bool> {
        let Done { hook, carrier, event, outcome } = done;
        let metrics = Arc::clone(self.events.metrics());
        let count = |ended| metrics.certificates.told(carrier.is_program(), ended);
        let waiting = self.queue.get(event)?;
        let place = carrier.place();
        let name = spelled(waiting, "event").map(str::to_owned);
        let certificate = spelled(waiting, "certificate").map(str::to_owned);
        let Err(error) = outcome else {
            count(Delivery::Delivered);
            tracing::debug!(event = name, certificate, place, "told a hook");
            return Some(self.queue.took(event, hook, now()).is_some());
        };
        let error: &dyn Error = error;
        if let Some(at) = self.queue.refused(event, hook, now()) {
            let seconds = at - now();
            tracing::warn!(
                event = name,
                certificate,
                place,
                error,
                seconds,
                "could not tell a hook"
            );
            count(Delivery::Failed);
            return Some(false);
        }
        tracing::error!(event = name, certificate, place, error, "gave up telling a hook");
        count(Delivery::Dropped);
        Some(self.queue.strike(event, hook).is_some())
    }

    async fn keep_or_remove(&self, event: &EventKey, is_done: bool) {
        if is_done {
            return self.remove(&event.1).await;
        }
        let (Some(shelf), Some(waiting)) = (self.shelf.clone(), self.queue.get(event)) else {
            return;
        };
        let (id, waiting) = (event.1.clone(), waiting.clone());
        if let Err(error) = blocking(move || shelf.put(&id, &waiting)).await {
            self.tell_unkept(&error);
        }
    }

    async fn remove(&self, id: &str) {
        let Some(shelf) = self.shelf.clone() else { return };
        let id = id.to_owned();
        if let Err(error) = blocking(move || shelf.drop(&id)).await {
            self.tell_unkept(&error);
        }
    }

    /// The hooks are told all the same, but not after a start. They are not told of this: it would
    /// end nowhere.
    fn tell_unkept(&self, error: &io::Error) {
        self.events.metrics().certificates.store_failed(StoreOp::Event);
        tracing::warn!(%error, "could not keep an event for the hooks");
    }

    fn tell_dropped(&self, waiting: &Waiting) {
        let (event, certificate) = (spelled(waiting, "event"), spelled(waiting, "certificate"));
        tracing::warn!(event, certificate, "dropped an event that no hook was told of");
        for hook in waiting.hooks.keys() {
            let is_program = self.plan.as_ref().and_then(|plan| plan.hooks.get(hook));
            let is_program = is_program.is_some_and(|hook| hook.carrier.is_program());
            self.events.metrics().certificates.told(is_program, Delivery::Dropped);
        }
    }
}

fn spelled<'w>(waiting: &'w Waiting, name: &str) -> Option<&'w str> {
    waiting.payload.get(name)?.as_str()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
}

fn now() -> i64 {
    unix(SystemTime::now())
}

fn millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What the machine calls itself.
fn host_name() -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let told = told.or_else(|| std::env::var("COMPUTERNAME").ok());
    let told = told.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    told.trim().to_owned()
}
