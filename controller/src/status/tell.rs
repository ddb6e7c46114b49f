//! Tells people, in the log, what has become of their objects: where there is no API server to hold a status, this is
//! where it is said first.
//!
//! What must always hold: a remark is made once, when it begins to be true, and again when it ends; an object without
//! remarks is silent, whatever its pods do. Pure but for [`Remark::log`].

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use kthena_gateway_api::FieldIssue;

use super::Status;
use crate::source::{ObjectKey, Problem};

/// What was, or is, to be said.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Of each object.
    pub statuses: &'a OrdMap<ObjectKey, Arc<Status>>,
    /// Of documents, sorted.
    pub problems: &'a [Problem],
}

/// One line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Someone should look at it.
    pub warning: bool,
    /// What it is about; empty = a document without a name.
    pub object: String,
    /// Where it was found.
    pub place: String,
    /// Path of the field; empty = the whole.
    pub field: String,
    /// What is to be said.
    pub message: String,
}

/// The remarks that lead from one view to the next.
pub fn changes(before: View<'_>, after: View<'_>) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let nothing = Status::default();
    for difference in before.statuses.diff(after.statuses) {
        match difference {
            DiffItem::Add(key, status) => of_object(key, &nothing, status, &mut remarks),
            DiffItem::Update {
                old: (key, old),
                new: (_, new),
            } => of_object(key, old, new, &mut remarks),
            DiffItem::Remove(key, status) => remarks.push(remark(key, status, None, "is gone".to_owned(), false)),
        }
    }
    // A problem with a name is in the status of its object.
    let nameless = |view: View<'_>| -> Vec<Problem> {
        let problems = view.problems.iter();
        problems.filter(|problem| problem.key.is_none()).cloned().collect()
    };
    let (old, new) = (nameless(before), nameless(after));
    for problem in &new {
        if !old.contains(problem) {
            remarks.push(of_document(problem, problem.message.clone(), !problem.harmless));
        }
    }
    for problem in &old {
        if !new.contains(problem) {
            remarks.push(of_document(problem, format!("no longer: {}", problem.message), false));
        }
    }
    remarks
}

fn of_object(key: &ObjectKey, old: &Status, new: &Status, remarks: &mut Vec<Remark>) {
    for issue in begun(&old.errors, &new.errors) {
        let consequence = if new.serving {
            "the last good version stays in force"
        } else {
            "nothing of it is in force"
        };
        let message = format!("refused, {consequence}: {}", issue.message);
        remarks.push(remark(key, new, Some(issue), message, true));
    }
    for issue in begun(&old.warnings, &new.warnings) {
        remarks.push(remark(key, new, Some(issue), issue.message.clone(), true));
    }
    for issue in begun(&old.unresolved, &new.unresolved) {
        remarks.push(remark(key, new, Some(issue), issue.message.clone(), true));
    }
    if !old.errors.is_empty() && new.accepted {
        remarks.push(remark(key, new, None, "accepted".to_owned(), false));
    }
    for issue in begun(&new.unresolved, &old.unresolved) {
        // Another reason in the place of this one is not the end of it.
        if !new.unresolved.iter().any(|other| other.path == issue.path) {
            remarks.push(remark(
                key,
                new,
                Some(issue),
                format!("no longer: {}", issue.message),
                false,
            ));
        }
    }
}

fn begun<'a>(old: &'a [FieldIssue], new: &'a [FieldIssue]) -> impl Iterator<Item = &'a FieldIssue> {
    new.iter().filter(|issue| !old.contains(issue))
}

fn remark(key: &ObjectKey, status: &Status, issue: Option<&FieldIssue>, message: String, warning: bool) -> Remark {
    Remark {
        warning,
        object: key.to_string(),
        place: status.place.clone(),
        field: issue.map(|issue| issue.path.clone()).unwrap_or_default(),
        message,
    }
}

fn of_document(problem: &Problem, message: String, warning: bool) -> Remark {
    Remark {
        warning,
        object: String::new(),
        place: problem.place.clone(),
        field: problem.field.clone(),
        message,
    }
}

impl Remark {
    /// Says it.
    pub fn log(&self) {
        let Self {
            warning,
            object,
            place,
            field,
            message,
        } = self;
        if *warning {
            tracing::warn!(object, place, field, "{message}");
        } else {
            tracing::info!(object, place, field, "{message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Kind;
    use kthena_gateway_api::EndpointCounts;

    fn key() -> ObjectKey {
        ObjectKey::new(Kind::ModelServer, "default", "m")
    }

    fn status(errors: &[&str], warnings: &[&str], unresolved: &[&str]) -> Arc<Status> {
        let issues = |texts: &[&str]| texts.iter().map(|text| FieldIssue::new("spec.x", *text)).collect();
        Arc::new(Status {
            place: "m.yaml:1".into(),
            accepted: errors.is_empty(),
            serving: true,
            errors: issues(errors),
            warnings: issues(warnings),
            unresolved: issues(unresolved),
            endpoints: Some(ready(1)),
        })
    }

    fn ready(ready: i32) -> EndpointCounts {
        EndpointCounts {
            selected: 9,
            ready,
            ..EndpointCounts::default()
        }
    }

    fn said(before: &[(ObjectKey, Arc<Status>)], after: &[(ObjectKey, Arc<Status>)]) -> Vec<String> {
        let [before, after] = [before, after].map(|statuses| statuses.iter().cloned().collect::<OrdMap<_, _>>());
        let view = |statuses| View {
            statuses,
            problems: &[],
        };
        changes(view(&before), view(&after))
            .into_iter()
            .map(|remark| format!("{}{}", if remark.warning { "! " } else { "" }, remark.message))
            .collect()
    }

    #[test]
    fn a_remark_is_made_when_it_begins_and_when_it_ends() {
        let good = [(key(), status(&[], &[], &[]))];
        let bad = [(key(), status(&["wrong"], &["unused"], &["no pod"]))];
        assert!(said(&[], &good).is_empty());
        assert_eq!(
            said(&good, &bad),
            [
                "! refused, the last good version stays in force: wrong",
                "! unused",
                "! no pod"
            ]
        );
        assert!(said(&bad, &bad).is_empty());
        assert_eq!(said(&bad, &good), ["accepted", "no longer: no pod"]);
        assert_eq!(said(&good, &[]), ["is gone"]);
    }

    #[test]
    fn pods_that_come_and_go_are_no_remark_while_some_serve() {
        let mut more = status(&[], &[], &[]);
        Arc::make_mut(&mut more).endpoints = Some(ready(9));
        assert!(said(&[(key(), status(&[], &[], &[]))], &[(key(), more)]).is_empty());
        let waiting = |reason| [(key(), status(&[], &[], &[reason]))];
        assert_eq!(
            said(&waiting("1 not ready"), &waiting("2 not ready")),
            ["! 2 not ready"]
        );
    }

    #[test]
    fn documents_without_a_name_speak_for_themselves() {
        let problem = |key, harmless| Problem {
            key,
            place: "x.yaml:3".into(),
            field: String::new(),
            message: "is not YAML".into(),
            harmless,
        };
        let said = |before: Vec<Problem>, after: Vec<Problem>| {
            let nothing = OrdMap::new();
            let view = |problems| View {
                statuses: &nothing,
                problems,
            };
            changes(view(&before), view(&after))
        };
        let begun = said(vec![], vec![problem(None, false), problem(Some(key()), false)]);
        assert_eq!(begun.len(), 1);
        assert!(begun[0].warning && begun[0].place == "x.yaml:3");
        assert!(!said(vec![], vec![problem(None, true)])[0].warning);
        let ended = said(vec![problem(None, false)], vec![]);
        assert_eq!(ended[0].message, "no longer: is not YAML");
    }
}
