//! What all watches have told: turned into events, and into which namespaces' pods are to be watched.
//!
//! Synchronous and without a clock. What must always hold: an object that was told of is deleted exactly when its watch
//! says so, a list without it ends, or its watch is given up; nothing of a watch that was given up is taken in any more.

use std::collections::{BTreeMap, BTreeSet};

use super::report::{Report, Signal, WatchId};
use crate::source::{Event, Kind, ObjectKey, Problem};

/// Pod watches to begin and to give up.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) begin: Vec<WatchId>,
    pub(super) end: Vec<WatchId>,
}

/// What is known of every watch.
#[derive(Debug)]
pub(super) struct State {
    max_objects: usize,
    /// Objects told of and not gone.
    count: usize,
    /// Objects left out for want of room.
    refused: u64,
    watches: BTreeMap<WatchId, Progress>,
    epoch: u64,
    unreadable: BTreeMap<ObjectKey, String>,
    problems_changed: bool,
    synced: bool,
}

#[derive(Debug, Default)]
struct Progress {
    epoch: u64,
    known: BTreeSet<ObjectKey>,
    /// What a list that has not ended yet has held so far.
    listing: Option<BTreeSet<ObjectKey>>,
    /// The server has told all there is, or that it does not know the kind.
    answered: bool,
}

// === impl State ===

impl State {
    /// Nothing is known, and this many objects may be.
    pub(super) fn new(max_objects: usize) -> Self {
        Self {
            max_objects,
            count: 0,
            refused: 0,
            watches: BTreeMap::new(),
            epoch: 0,
            unreadable: BTreeMap::new(),
            problems_changed: false,
            synced: false,
        }
    }

    /// How many objects were left out for want of room.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// A watch begins. Returns what its reports must carry.
    pub(super) fn begin(&mut self, id: WatchId) -> u64 {
        self.epoch += 1;
        let progress = Progress {
            epoch: self.epoch,
            ..Progress::default()
        };
        self.watches.insert(id, progress);
        self.epoch
    }

    /// A watch is given up, and with it all that it told of.
    pub(super) fn end(&mut self, id: &WatchId, events: &mut Vec<Event>) {
        let Some(progress) = self.watches.remove(id) else {
            return;
        };
        for key in progress.known {
            self.forget(key, events);
        }
    }

    /// Takes in what a watch told.
    pub(super) fn take(&mut self, report: Report, events: &mut Vec<Event>) {
        let Report { id, epoch, signal } = report;
        let Some(progress) = self.watches.get_mut(&id).filter(|progress| progress.epoch == epoch) else {
            return;
        };
        match signal {
            Signal::ListBegins => progress.listing = Some(BTreeSet::new()),
            Signal::Seen(object, origin) => {
                let key = object.key();
                if !progress.see(&key, &mut self.count, self.max_objects) {
                    self.refused += 1;
                    return;
                }
                self.readable(&key);
                events.push(Event::Apply(object, origin));
            }
            Signal::Unreadable(key, reason) => {
                if !progress.see(&key, &mut self.count, self.max_objects) {
                    self.refused += 1;
                    return;
                }
                self.problems_changed |= self.unreadable.get(&key) != Some(&reason);
                self.unreadable.insert(key, reason);
            }
            Signal::Gone(key) => {
                if let Some(listing) = &mut progress.listing {
                    listing.remove(&key);
                }
                if progress.known.remove(&key) {
                    self.forget(key, events);
                }
            }
            Signal::ListEnds => {
                progress.answered = true;
                let listed = progress.listing.take().unwrap_or_default();
                let gone: Vec<_> = progress.known.difference(&listed).cloned().collect();
                progress.known = listed;
                for key in gone {
                    self.forget(key, events);
                }
            }
            Signal::KindUnknown => {
                progress.answered = true;
                progress.listing = None;
            }
            Signal::KindAbsent => {
                for key in std::mem::take(&mut progress.known) {
                    self.forget(key, events);
                }
            }
        }
    }

    /// Closes a batch: what cannot be read, if that changed, and whether all that there was has been told.
    pub(super) fn settle(&mut self, events: &mut Vec<Event>) {
        if std::mem::take(&mut self.problems_changed) {
            let problems = self.unreadable.iter().map(|(key, reason)| Problem {
                key: Some(key.clone()),
                place: "API server".to_owned(),
                field: String::new(),
                message: format!("cannot be read: {reason}"),
                harmless: false,
            });
            events.push(Event::Problems(problems.collect()));
        }
        if !self.synced && self.watches.values().all(|progress| progress.answered) {
            self.synced = true;
            events.push(Event::Synced);
        }
    }

    /// How the watches of pods differ from what is needed: those of namespaces that hold a ModelServer or an InferencePool.
    pub(super) fn pods_wanted(&self) -> Change {
        let selecting = |id: &WatchId| matches!(id.kind(), Kind::ModelServer | Kind::InferencePool);
        let wanted: BTreeSet<&str> = self
            .watches
            .iter()
            .filter(|(id, _)| selecting(id))
            .flat_map(|(_, progress)| namespaces(&progress.known))
            .collect();
        let watched: BTreeSet<&str> = self
            .watches
            .keys()
            .filter(|id| id.kind() == Kind::Pod)
            .filter_map(WatchId::namespace)
            .collect();
        let id = |namespace: &&str| WatchId::new(Kind::Pod, Some((*namespace).to_owned()));
        Change {
            begin: wanted.difference(&watched).map(id).collect(),
            end: watched.difference(&wanted).map(id).collect(),
        }
    }

    fn readable(&mut self, key: &ObjectKey) {
        self.problems_changed |= self.unreadable.remove(key).is_some();
    }

    fn forget(&mut self, key: ObjectKey, events: &mut Vec<Event>) {
        self.count = self.count.saturating_sub(1);
        self.readable(&key);
        events.push(Event::Delete(key));
    }
}

/// The namespaces of keys of one kind, without a look at each of them.
fn namespaces(keys: &BTreeSet<ObjectKey>) -> Vec<&str> {
    let mut found = Vec::new();
    let mut next = keys.first();
    while let Some(key) = next {
        found.push(key.namespace.as_str());
        // The first name that could come after this one.
        let after = ObjectKey::new(key.kind, format!("{}\0", key.namespace), "");
        next = keys.range(after..).next();
    }
    found
}

// === impl Progress ===

impl Progress {
    /// Notes that an object is there. False = there is no room for another.
    fn see(&mut self, key: &ObjectKey, count: &mut usize, max: usize) -> bool {
        if !self.known.contains(key) {
            if *count >= max {
                return false;
            }
            *count += 1;
            self.known.insert(key.clone());
        }
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::fixtures::{pod, route, server};
    use crate::source::{Object, OrderKey, Origin};
    use serde_json::json;

    fn id(kind: Kind) -> WatchId {
        let namespace = (kind == Kind::Pod).then(|| "default".to_owned());
        WatchId::new(kind, namespace)
    }

    struct Story {
        state: State,
        epochs: BTreeMap<WatchId, u64>,
    }

    impl Story {
        fn new(kinds: &[Kind]) -> Self {
            let mut state = State::new(100);
            let epochs = kinds.iter().map(|kind| (id(*kind), state.begin(id(*kind)))).collect();
            Self { state, epochs }
        }

        fn tell(&mut self, kind: Kind, signals: Vec<Signal>) -> Vec<String> {
            let mut events = Vec::new();
            for signal in signals {
                let report = Report {
                    id: id(kind),
                    epoch: self.epochs[&id(kind)],
                    signal,
                };
                self.state.take(report, &mut events);
            }
            self.state.settle(&mut events);
            events.iter().map(said).collect()
        }
    }

    fn said(event: &Event) -> String {
        match event {
            Event::Apply(object, _) => format!("+{}", object.key().name),
            Event::Delete(key) => format!("-{}", key.name),
            Event::Problems(problems) => format!("{} problems", problems.len()),
            Event::Synced => "synced".to_owned(),
        }
    }

    fn seen(object: Object) -> Signal {
        let origin = Origin {
            place: String::new(),
            order: OrderKey::Created(0, String::new(), String::new()),
            warnings: Vec::new(),
        };
        Signal::Seen(object, origin)
    }

    fn list(objects: Vec<Object>) -> Vec<Signal> {
        let objects = objects.into_iter().map(seen);
        [Signal::ListBegins]
            .into_iter()
            .chain(objects)
            .chain([Signal::ListEnds])
            .collect()
    }

    fn key(kind: Kind, name: &str) -> ObjectKey {
        ObjectKey::new(kind, "default", name)
    }

    #[test]
    fn a_list_deletes_what_it_does_not_hold_and_nothing_before_it_ends() {
        let mut story = Story::new(&[Kind::ModelServer]);
        assert_eq!(
            story.tell(Kind::ModelServer, list(vec![server("a", "x"), server("b", "x")])),
            ["+a", "+b", "synced"]
        );
        // The watch expired: another list begins, breaks off, and begins again.
        let begun = vec![Signal::ListBegins, seen(server("b", "x")), Signal::ListBegins];
        assert_eq!(story.tell(Kind::ModelServer, begun), ["+b"]);
        let rest = vec![seen(server("c", "x")), Signal::ListEnds];
        assert_eq!(story.tell(Kind::ModelServer, rest), ["+c", "-a", "-b"]);
    }

    #[test]
    fn all_is_told_when_every_watch_has_answered_also_that_it_does_not_know() {
        let mut story = Story::new(&[Kind::ModelRoute, Kind::InferencePool]);
        assert_eq!(
            story.tell(Kind::ModelRoute, list(vec![route("r", json!({"rules": []}))])),
            ["+r"]
        );
        assert_eq!(story.tell(Kind::InferencePool, vec![Signal::KindUnknown]), ["synced"]);
        assert!(story.tell(Kind::InferencePool, list(vec![])).is_empty(), "said once");
    }

    #[test]
    fn a_kind_that_is_not_known_for_a_moment_keeps_its_objects_and_one_that_is_gone_does_not() {
        let mut story = Story::new(&[Kind::ModelServer]);
        story.tell(Kind::ModelServer, list(vec![server("a", "x")]));
        assert!(story.tell(Kind::ModelServer, vec![Signal::KindUnknown]).is_empty());
        assert_eq!(story.tell(Kind::ModelServer, vec![Signal::KindAbsent]), ["-a"]);
    }

    #[test]
    fn an_object_that_cannot_be_read_is_named_and_stays_what_it_was() {
        let mut story = Story::new(&[Kind::ModelServer]);
        story.tell(Kind::ModelServer, list(vec![server("a", "x")]));
        let bad = || Signal::Unreadable(key(Kind::ModelServer, "a"), "no port".into());
        assert_eq!(story.tell(Kind::ModelServer, vec![bad()]), ["1 problems"]);
        assert!(story.tell(Kind::ModelServer, vec![bad()]).is_empty(), "said once");
        assert_eq!(
            story.tell(Kind::ModelServer, vec![seen(server("a", "y"))]),
            ["+a", "0 problems"]
        );
        story.tell(Kind::ModelServer, vec![bad()]);
        let gone = vec![Signal::Gone(key(Kind::ModelServer, "a"))];
        assert_eq!(story.tell(Kind::ModelServer, gone), ["-a", "0 problems"]);
    }

    #[test]
    fn objects_beyond_the_bound_are_left_out_until_there_is_room() {
        let mut story = Story::new(&[Kind::ModelServer]);
        story.state.max_objects = 1;
        let all = || list(vec![server("a", "x"), server("b", "x")]);
        assert_eq!(story.tell(Kind::ModelServer, all()), ["+a", "synced"]);
        assert_eq!(story.state.refused(), 1);
        let gone = |name| vec![Signal::Gone(key(Kind::ModelServer, name))];
        assert!(
            story.tell(Kind::ModelServer, gone("b")).is_empty(),
            "nobody was told of it"
        );
        assert_eq!(story.tell(Kind::ModelServer, gone("a")), ["-a"]);
        assert_eq!(story.tell(Kind::ModelServer, vec![seen(server("b", "x"))]), ["+b"]);
    }

    #[test]
    fn each_namespace_is_found_once() {
        let key = |namespace: &str, name: &str| ObjectKey::new(Kind::ModelServer, namespace, name);
        let keys = [
            key("a", "x"),
            key("a", "y"),
            key("a-b", "x"),
            key("b", "x"),
            key("b", "z"),
        ];
        assert_eq!(namespaces(&keys.into()), ["a", "a-b", "b"]);
        assert!(namespaces(&BTreeSet::new()).is_empty());
    }

    #[test]
    fn pods_are_watched_where_something_selects_them_and_only_there() {
        let mut story = Story::new(&[Kind::ModelServer]);
        assert_eq!(story.state.pods_wanted(), Change::default());
        story.tell(Kind::ModelServer, vec![Signal::ListBegins, seen(server("a", "x"))]);
        assert_eq!(story.state.pods_wanted().begin, [id(Kind::Pod)]);
        story.epochs.insert(id(Kind::Pod), story.state.begin(id(Kind::Pod)));
        assert!(
            story.tell(Kind::ModelServer, vec![Signal::ListEnds]).is_empty(),
            "pods first"
        );
        assert_eq!(
            story.tell(Kind::Pod, list(vec![pod("p", "x", "10.0.0.1")])),
            ["+p", "synced"]
        );
        story.tell(Kind::ModelServer, vec![Signal::Gone(key(Kind::ModelServer, "a"))]);
        assert_eq!(story.state.pods_wanted().end, [id(Kind::Pod)]);
        let mut events = Vec::new();
        story.state.end(&id(Kind::Pod), &mut events);
        assert_eq!(events.iter().map(said).collect::<Vec<_>>(), ["-p"]);
        // What the ended watch had still to tell does not count.
        assert!(story.tell(Kind::Pod, vec![seen(pod("q", "x", "10.0.0.2"))]).is_empty());
        // Nor does it after another has begun.
        story.state.begin(id(Kind::Pod));
        assert!(story.tell(Kind::Pod, vec![seen(pod("q", "x", "10.0.0.2"))]).is_empty());
    }
}
