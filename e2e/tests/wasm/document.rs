//! Two reference configurations that say the same wherever they can.

use kthena_e2e::envoy::{DOCUMENT, WASM_DOCUMENT};
use serde_json::{Value, json};

/// Taken out of a configuration, to be looked at by itself.
fn take(configuration: &mut Value, pointer: &str) -> Value {
    configuration.pointer_mut(pointer).map(Value::take).unwrap()
}

#[test]
fn the_configurations_differ_in_who_decides_and_in_nothing_else() {
    let read = |text: &str| -> Value { serde_saphyr::from_str(text).unwrap() };
    let [mut asked, mut filter] = [DOCUMENT, WASM_DOCUMENT].map(read);
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let route = format!("{manager}/route_config/virtual_hosts/0/routes/0");

    // Who decides, and what it needs.
    let filters = [&mut asked, &mut filter].map(|of| take(of, &format!("{manager}/http_filters")));
    let [asked_filters, own_filters] = &filters;
    assert_eq!(own_filters[0]["name"], "kthena");
    assert_eq!(own_filters[1]["name"], "envoy.filters.http.header_to_metadata");
    assert_eq!(asked_filters[1]["name"], "envoy.filters.http.json_to_metadata");
    assert_eq!(asked_filters[2]["name"], "envoy.filters.http.sse_to_metadata");
    assert_eq!(own_filters[2], asked_filters[3], "the router");
    for of in [&mut asked, &mut filter] {
        take(of, "/static_resources/clusters");
    }

    // The access log: the same keys, where the filter knows them.
    let logs = [&mut asked, &mut filter].map(|of| take(of, &format!("{manager}/access_log")));
    let keys = |log: &Value| -> Vec<String> {
        let format = log[0]["typed_config"]["log_format"]["json_format"].as_object().unwrap();
        format.keys().cloned().collect()
    };
    let known = keys(&logs[0]);
    assert!(
        keys(&logs[1]).iter().all(|key| known.contains(key)),
        "{:?}",
        keys(&logs[1])
    );

    // Names of headers, and words about who failed.
    for field in ["request_headers_to_remove", "response_headers_to_add"] {
        for of in [&mut asked, &mut filter] {
            of.pointer_mut(&route).unwrap()[field] = json!(null);
        }
    }
    let words = [
        (
            "response.code_details.startsWith('kthena_')",
            "'wasm.kthena.answered' in filter_state",
        ),
        ("startsWith('ext_proc')", "startsWith('wasm')"),
        ("the routing service does not answer", "the routing filter has failed"),
        (
            "the routing service did not answer",
            "the routing filter did not answer",
        ),
    ];
    let asked = words
        .iter()
        .fold(asked.to_string(), |text, (from, to)| text.replace(from, to));
    assert_eq!(read(&asked), filter);
}
