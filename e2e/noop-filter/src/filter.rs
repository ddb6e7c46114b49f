//! The contexts of the host. They fail by holding the request: a benchmark then ends with an error.

use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType, MapType};

const CLUSTER: &str = "x-kthena-cluster";

/// Bytes of a body that are read at a time.
const WINDOW: usize = 64 << 10;

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Plugin { cluster: "".into() }));
}}

struct Plugin {
    cluster: Rc<str>,
}

struct Request {
    cluster: Rc<str>,
    read: usize,
}

impl Context for Plugin {}

impl RootContext for Plugin {
    fn on_configure(&mut self, size: usize) -> bool {
        let bytes = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size);
        let text = bytes.ok().flatten().and_then(|bytes| String::from_utf8(bytes).ok());
        self.cluster = text.unwrap_or_default().trim().trim_matches('"').into();
        !self.cluster.is_empty()
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Request {
            cluster: Rc::clone(&self.cluster),
            read: 0,
        }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Request {
    fn send(&self) -> Action {
        let set = hostcalls::set_map_value(MapType::HttpRequestHeaders, CLUSTER, Some(&self.cluster));
        let cleared = hostcalls::call_foreign_function("clear_route_cache", None);
        match set.is_ok() && cleared.is_ok() {
            true => Action::Continue,
            false => Action::Pause,
        }
    }
}

impl Context for Request {}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        if end { self.send() } else { Action::Pause }
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        while self.read < size {
            let window = hostcalls::get_buffer(BufferType::HttpRequestBody, self.read, WINDOW.min(size - self.read));
            let read = window.ok().flatten().map_or(0, |bytes| bytes.len());
            if read == 0 {
                break;
            }
            self.read += read;
        }
        if end { self.send() } else { Action::Pause }
    }
}
