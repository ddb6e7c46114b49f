//! What a request asks for, read from its body and checked against what the endpoint serves.

use twox_hash::XxHash3_64;

use super::errors::ApiError;
use super::fields::{self, Fields};
use super::prompts;
use crate::engine::Submission;
use crate::engine::prompt::{Prompt, Token};
use crate::engine::stats::FinishReason;
use crate::settings::ModelServer;

/// Most sequences of one request: prompts times `n`.
const MOST_SEQUENCES: usize = 2048;

/// The forms in which an answer can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`
    Messages,
    /// `/v1/embeddings`
    Embeddings,
}

/// When usage is told in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamUsage {
    /// In a chunk of its own at the end.
    pub(crate) at_end: bool,
    /// In every chunk.
    pub(crate) always: bool,
}

/// A request that can be served.
#[derive(Debug)]
pub(crate) struct Ask {
    /// Its form.
    pub(crate) form: Form,
    /// The model or adapter, as the client named it.
    pub(crate) model: String,
    /// One sequence for each choice of the answer.
    pub(crate) submissions: Vec<Submission>,
    /// Tokens of all prompts; a prompt that is answered `n` times counts once.
    pub(crate) prompt_tokens: u32,
    /// Answers to each prompt, which follow each other in `submissions`.
    pub(crate) copies: u32,
    /// Whether the answer is streamed.
    pub(crate) stream: bool,
    /// What usage a stream tells.
    pub(crate) stream_usage: StreamUsage,
    /// Whether embeddings are base64 instead of lists.
    pub(crate) base64: bool,
    /// Numbers in an embedding.
    pub(crate) dimensions: u32,
}

/// What the forms read differently.
struct Wanted {
    prompts: Vec<Vec<Token>>,
    tokens: Option<u32>,
    copies: u32,
}

impl Ask {
    /// Reads a body.
    pub(crate) fn read(form: Form, body: &[u8], server: &ModelServer) -> Result<Self, ApiError> {
        let fields = fields::object(body)?;
        let wanted = wanted(form, &fields)?;
        let (model, adapter) = the_model(&fields, server)?;
        let stream = form != Form::Embeddings && fields::flag(&fields, "stream")?;
        let stream_usage = stream_usage(&fields, stream)?;
        let salt = salt(adapter, fields::string(&fields, "cache_salt")?);
        if wanted.prompts.len().saturating_mul(wanted.copies as usize) > MOST_SEQUENCES {
            return Err(ApiError::invalid(
                "n",
                format!("at most {MOST_SEQUENCES} sequences in one request"),
            ));
        }
        let mut submissions = Vec::with_capacity(wanted.prompts.len());
        let mut prompt_tokens = 0;
        for tokens in &wanted.prompts {
            let (limit, ending) = limit(form, tokens.len(), wanted.tokens, server)?;
            let prompt = Prompt::new(tokens, server.engine.block_size, salt);
            prompt_tokens += prompt.prompt_tokens();
            let submission = Submission {
                prompt,
                tokens: limit,
                ending,
                adapter,
            };
            submissions.extend(std::iter::repeat_n(submission, wanted.copies as usize));
        }
        Ok(Self {
            form,
            model,
            submissions,
            prompt_tokens,
            copies: wanted.copies,
            stream,
            stream_usage,
            base64: fields::string(&fields, "encoding_format")? == Some("base64"),
            dimensions: fields::count(&fields, "dimensions")?.unwrap_or(64).min(8192),
        })
    }
}

fn wanted(form: Form, fields: &Fields) -> Result<Wanted, ApiError> {
    let copies = |fields| Ok::<_, ApiError>(fields::count(fields, "n")?.unwrap_or(1));
    Ok(match form {
        Form::Chat => {
            fields::entries(fields, "messages")?;
            let newer = fields::count(fields, "max_completion_tokens")?;
            Wanted {
                prompts: vec![prompts::conversation(
                    fields,
                    "system",
                    fields::required(fields, "messages")?,
                )?],
                tokens: newer.or(fields::count(fields, "max_tokens")?),
                copies: copies(fields)?,
            }
        }
        Form::Completions => Wanted {
            prompts: prompts::plain("prompt", fields::required(fields, "prompt")?)?,
            // Sixteen is the default of the completions API itself.
            tokens: Some(fields::count(fields, "max_tokens")?.unwrap_or(16)),
            copies: copies(fields)?,
        },
        Form::Responses => Wanted {
            prompts: vec![prompts::conversation(
                fields,
                "instructions",
                fields::required(fields, "input")?,
            )?],
            tokens: fields::count(fields, "max_output_tokens")?,
            copies: 1,
        },
        Form::Messages => {
            fields::required(fields, "max_tokens")?;
            fields::entries(fields, "messages")?;
            Wanted {
                prompts: vec![prompts::conversation(
                    fields,
                    "system",
                    fields::required(fields, "messages")?,
                )?],
                tokens: fields::count(fields, "max_tokens")?,
                copies: 1,
            }
        }
        Form::Embeddings => Wanted {
            prompts: prompts::plain("input", fields::required(fields, "input")?)?,
            tokens: None,
            copies: 1,
        },
    })
}

/// The model's name and, if it is an adapter's, which. A body without a model means the base model, as in vLLM.
pub(super) fn the_model(fields: &Fields, server: &ModelServer) -> Result<(String, Option<usize>), ApiError> {
    let name = fields::string(fields, "model")?
        .filter(|name| !name.is_empty())
        .unwrap_or(&server.model);
    if name == server.model {
        return Ok((name.to_owned(), None));
    }
    match server.adapters.iter().position(|adapter| adapter == name) {
        Some(adapter) => Ok((name.to_owned(), Some(adapter))),
        None => {
            let aliases: Vec<&str> = std::iter::once(&server.model)
                .chain(&server.adapters)
                .map(String::as_str)
                .collect();
            Err(ApiError::unknown_model(name, &aliases))
        }
    }
}

fn stream_usage(fields: &Fields, stream: bool) -> Result<StreamUsage, ApiError> {
    let Some(options) = fields.get("stream_options").and_then(|options| options.as_object()) else {
        return Ok(StreamUsage {
            at_end: false,
            always: false,
        });
    };
    if !stream {
        let message = "Stream options can only be defined when `stream=True`.";
        return Err(ApiError::invalid("stream_options", message));
    }
    let at_end = fields::flag(options, "include_usage")?;
    Ok(StreamUsage {
        at_end,
        always: at_end && fields::flag(options, "continuous_usage_stats")?,
    })
}

/// Adapters and cache salts keep their blocks to themselves.
fn salt(adapter: Option<usize>, cache_salt: Option<&str>) -> u64 {
    let adapter = adapter.map_or(0, |adapter| adapter as u64 + 1);
    match cache_salt {
        None => adapter,
        Some(salt) => XxHash3_64::oneshot_with_seed(adapter, salt.as_bytes()),
    }
}

/// How many tokens are generated for a prompt of `prompt_tokens`, and how that ends.
fn limit(
    form: Form,
    prompt_tokens: usize,
    wanted: Option<u32>,
    server: &ModelServer,
) -> Result<(u32, FinishReason), ApiError> {
    let most = server.max_model_len;
    if let Some(wanted) = wanted.filter(|wanted| *wanted > most) {
        let message = format!(
            "max_tokens={wanted} cannot be greater than max_model_len={most}. Please request fewer output tokens."
        );
        return Err(ApiError::invalid("max_tokens", message));
    }
    let room = u32::try_from(prompt_tokens)
        .ok()
        .and_then(|tokens| most.checked_sub(tokens));
    let too_long = |room: &str| {
        ApiError::invalid(
            "input_tokens",
            format!(
                "This model's maximum context length is {most} tokens. However, your request has {prompt_tokens} input \
                 tokens{room}. Please reduce the length of the input messages or the number of output tokens."
            ),
        )
    };
    match (form, room, wanted) {
        (Form::Embeddings, Some(_), _) => Ok((0, FinishReason::Stop)),
        (_, None | Some(0), _) => Err(too_long("")),
        (_, Some(room), Some(wanted)) if wanted > room => Err(too_long(&format!(" and asks for {wanted} more"))),
        (_, _, Some(wanted)) => Ok((wanted, FinishReason::Length)),
        (_, Some(room), None) if server.answer_tokens > room => Ok((room, FinishReason::Length)),
        (_, Some(_), None) => Ok((server.answer_tokens, FinishReason::Stop)),
    }
}

#[cfg(test)]
mod tests {
    use crate::settings::FleetGroup;

    use super::*;

    fn read(form: Form, body: &str) -> Result<Ask, ApiError> {
        let group = "addresses=127.0.0.1,profile=test-nodelay,model=base,lora=sql,kv_tokens=4096,answer_tokens=50";
        Ask::read(form, body.as_bytes(), &group.parse::<FleetGroup>().unwrap().server)
    }

    fn message(form: Form, body: &str) -> String {
        let error: serde_json::Value =
            serde_json::from_str(&read(form, body).unwrap_err().to_openai().to_text()).unwrap();
        error["error"]["message"].as_str().unwrap().to_owned()
    }

    #[test]
    fn each_form_has_its_own_limit() {
        let tokens = |form, body| read(form, body).unwrap().submissions[0].tokens;
        assert_eq!(
            tokens(Form::Chat, r#"{"messages":[{"role":"user","content":"x"}]}"#),
            50
        );
        assert_eq!(
            tokens(
                Form::Chat,
                r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":3,"max_completion_tokens":4}"#
            ),
            4
        );
        assert_eq!(tokens(Form::Completions, r#"{"prompt":"x"}"#), 16);
        assert_eq!(tokens(Form::Responses, r#"{"input":"x","max_output_tokens":7}"#), 7);
        assert_eq!(
            tokens(
                Form::Messages,
                r#"{"max_tokens":9,"messages":[{"role":"user","content":"x"}]}"#
            ),
            9
        );
        assert_eq!(tokens(Form::Embeddings, r#"{"input":[[1,2],[3]]}"#), 0);
    }

    #[test]
    fn what_is_wrong_with_a_body_is_said() {
        assert!(message(Form::Chat, "{").contains("'body.1', 'msg': 'JSON decode error"));
        assert!(message(Form::Chat, "{\n \"a\": }").contains("'body.8'"));
        assert!(message(Form::Chat, "[]").contains("valid dictionary"));
        assert!(message(Form::Chat, "{}").contains("'body.messages', 'msg': 'Field required'"));
        assert!(message(Form::Chat, r#"{"messages":[]}"#).contains("must not be empty"));
        assert!(message(Form::Completions, r#"{"prompt":"x","max_tokens":0}"#).contains("at least 1"));
        assert!(message(Form::Completions, r#"{"prompt":"x","max_tokens":4096}"#).contains("maximum context length"));
        assert!(message(Form::Completions, r#"{"prompt":"x","max_tokens":5000}"#).contains("max_model_len=4096"));
        assert_eq!(
            message(Form::Chat, r#"{"messages":"x"}"#),
            "'str' object is not iterable"
        );
        assert!(message(Form::Messages, r#"{"messages":[{"role":"user"}]}"#).contains("body.max_tokens"));
        assert!(message(Form::Completions, r#"{"prompt":"x","n":5000}"#).contains("2048"));
        assert!(
            message(
                Form::Completions,
                r#"{"prompt":"x","stream_options":{"include_usage":true}}"#
            )
            .contains("stream")
        );
        assert_eq!(
            message(Form::Completions, r#"{"prompt":"x","model":"nope"}"#),
            "The model `nope` does not exist. Valid aliases: base, sql."
        );
    }

    #[test]
    fn an_adapter_shares_no_block_with_its_base() {
        let hashes = |model: &str| {
            let body = serde_json::json!({"model": model, "prompt": "x".repeat(2000)}).to_string();
            read(Form::Completions, &body).unwrap().submissions[0]
                .prompt
                .hashes()
                .to_vec()
        };
        assert!(!hashes("base").is_empty());
        assert_ne!(hashes("base"), hashes("sql"));
    }
}
