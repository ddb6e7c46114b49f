//! Judging the model name that a backend is asked for: the rule of ModelServers and of external providers alike.

use crate::FieldIssue;

const MAX_MODEL_CHARS: usize = 256;

/// What is wrong with `spec.model`, where it is set.
pub(super) fn model_name(model: Option<&str>) -> Option<FieldIssue> {
    model
        .filter(|model| model.chars().count() > MAX_MODEL_CHARS)
        .map(|_| FieldIssue::new("spec.model", format!("is longer than {MAX_MODEL_CHARS} characters")))
}
