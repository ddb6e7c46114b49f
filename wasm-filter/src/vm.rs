//! The VM's side of proxy-wasm: contexts that pass every event on to their plugin.
//!
//! What must always hold: the host calls in for one event at a time, and what a call of ours leads to comes after we
//! have returned (the SDK relies on the same), so a plugin is never borrowed twice.

use std::cell::RefCell;
use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType};

use crate::config::Config;
use crate::host::envoy::Envoy;
use crate::host::{Flow, Host as _, Level};
use crate::root::Root;

type Plugin = Rc<RefCell<Option<Root<Envoy>>>>;

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|id| Box::new(PluginContext { id, plugin: Plugin::default() }));
}}

/// The plugin's own context.
struct PluginContext {
    id: u32,
    plugin: Plugin,
}

/// The context of one request.
struct RequestContext {
    id: u32,
    plugin: Plugin,
}

fn action(flow: Flow) -> Action {
    match flow {
        Flow::Continue => Action::Continue,
        Flow::Pause => Action::Pause,
    }
}

impl PluginContext {
    fn with(&self, event: impl FnOnce(&mut Root<Envoy>)) {
        if let Some(root) = self.plugin.borrow_mut().as_mut() {
            event(root);
        }
    }
}

impl RequestContext {
    /// A request can come only to a plugin that was configured.
    fn with<T>(&self, otherwise: T, event: impl FnOnce(&mut Root<Envoy>) -> T) -> T {
        match self.plugin.borrow_mut().as_mut() {
            Some(root) => event(root),
            None => otherwise,
        }
    }
}

impl Context for PluginContext {
    fn on_grpc_stream_message(&mut self, stream: u32, size: usize) {
        let bytes = hostcalls::get_buffer(BufferType::GrpcReceiveBuffer, 0, size);
        let bytes = bytes.ok().flatten().unwrap_or_default();
        self.with(|root| root.on_message(stream, &bytes));
    }

    fn on_grpc_stream_close(&mut self, stream: u32, status: u32) {
        self.with(|root| root.on_closed(stream, status));
    }

    fn on_done(&mut self) -> bool {
        self.with(Root::on_end);
        true
    }
}

impl RootContext for PluginContext {
    fn on_configure(&mut self, size: usize) -> bool {
        let json = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size);
        match Config::parse(&json.ok().flatten().unwrap_or_default()) {
            Ok(config) => {
                *self.plugin.borrow_mut() = Some(Root::new(Envoy, self.id, config));
                true
            }
            Err(error) => {
                Envoy.log(Level::Error, &format!("kthena: {error}"));
                false
            }
        }
    }

    fn on_tick(&mut self) {
        self.with(Root::on_tick);
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(RequestContext {
            id,
            plugin: Rc::clone(&self.plugin),
        }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Context for RequestContext {
    fn on_done(&mut self) -> bool {
        self.with((), |root| root.on_done(self.id));
        true
    }
}

impl HttpContext for RequestContext {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        action(self.with(Flow::Continue, |root| root.on_request_headers(self.id, end)))
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        action(self.with(Flow::Continue, |root| root.on_request_body(self.id, size, end)))
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        action(self.with(Flow::Continue, |root| root.on_request_trailers(self.id)))
    }

    fn on_http_response_headers(&mut self, _: usize, end: bool) -> Action {
        self.with((), |root| root.on_response_headers(self.id, end));
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        self.with((), |root| root.on_response_body(self.id, size, end));
        Action::Continue
    }

    fn on_log(&mut self) {
        self.with((), |root| root.on_log(self.id));
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        self.with((), |root| root.on_response_trailers(self.id));
        Action::Continue
    }
}
