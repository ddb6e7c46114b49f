//! Reading single figures from a page of metrics.
//!
//! What is wanted is always one series, summed over its label sets, so no page is parsed as a whole. A series that is not there is told
//! from one that says zero.

/// The sum of a series over its label sets; `None` when the page has none of this name.
#[must_use]
pub fn sum(page: &str, name: &str) -> Option<f64> {
    page.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_summed_over_its_label_sets_and_told_from_its_like() {
        let page = "# TYPE prompt_tokens_total counter\n\
                    prompt_tokens_total{engine=\"0\",model_name=\"a b\"} 1000.0\n\
                    prompt_tokens_total{engine=\"1\",model_name=\"a b\"} 2.4e1\n\
                    prompt_tokens_total_more{engine=\"0\"} 7.0\n\
                    plain 0\n";
        assert_eq!(sum(page, "prompt_tokens_total"), Some(1024.0));
        assert_eq!(sum(page, "plain"), Some(0.0));
        assert_eq!(sum(page, "prompt_tokens"), None);
    }
}
