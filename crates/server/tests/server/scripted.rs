//! A provider whose answers are a pure function of the request.
//!
//! Tokens are bytes (ids 0 to 255). Choice 0 answers a prompt `P` with `You said: P`, choice `c` with `(c) You said: P`.
//! Some prompts are stage directions instead: they start with `!`.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_core::Stream;
use ingle_chat::{
    ChatInput, Content, Delta, DeltaStream, Echo, EmbedFuture, EmbedRequest, Embedding, Embeddings,
    EmbeddingsFuture, Event, FinishReason, Message, ModelDetails, ModelInfo, Part, Principal, Prompt,
    Prompted, Provider, ProviderError, ProviderStatus, Request, Sampling, StartFuture, Task, TokenLogprob,
    Usage,
};
use ingle_step::TokenId;
use tokio::sync::watch;

/// Context of the model, in tokens (bytes).
pub const N_CTX: usize = 4096;

/// The provider.
#[derive(Default)]
pub struct Scripted {
    /// Streams that exist now.
    pub live: Arc<AtomicUsize>,
    /// Streams that were ever started.
    pub started: AtomicUsize,
    /// How many streams there may be; 0 is no limit.
    pub room: AtomicUsize,
    /// Half of the model is still on its way.
    pub loading: AtomicBool,
    /// Once it is true, `!gate` and `!busy` go on.
    pub gate: watch::Sender<bool>,
    /// Threads that work on a `!busy`.
    pub busy: AtomicUsize,
    /// Whose cache was flushed.
    pub flushed: Mutex<Vec<Principal>>,
}

enum Scene {
    Delta(Delta),
    Fail(ProviderError),
    Pause(Duration),
    /// Until the gate is open.
    Gate,
    Hang,
}

/// Vectors on their way.
struct Live(Arc<AtomicUsize>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Play {
    scenes: VecDeque<Scene>,
    gate: watch::Receiver<bool>,
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    live: Arc<AtomicUsize>,
}

impl Drop for Play {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Stream for Play {
    type Item = Result<Delta, ProviderError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match self.scenes.pop_front() {
                None => return Poll::Ready(None),
                Some(Scene::Delta(delta)) => return Poll::Ready(Some(Ok(delta))),
                Some(Scene::Fail(e)) => {
                    self.scenes.clear();
                    return Poll::Ready(Some(Err(e)));
                }
                Some(Scene::Pause(time)) => self.pause = Some(Box::pin(tokio::time::sleep(time))),
                Some(Scene::Gate) => {
                    let mut gate = self.gate.clone();
                    self.pause = Some(Box::pin(async move {
                        let _ = gate.wait_for(|is_open| *is_open).await;
                    }));
                }
                Some(Scene::Hang) => {
                    self.scenes.push_front(Scene::Hang);
                    return Poll::Pending;
                }
            }
        }
    }
}

fn content_text(content: &Content) -> String {
    match content {
        Content::None => String::new(),
        Content::Text(text) => text.clone(),
        Content::Parts(parts) => parts.iter().map(|Part::Text(text)| text.as_str()).collect(),
    }
}

/// The prompt of a request as bytes: of a conversation, its last message.
pub fn prompt_bytes(request: &Request) -> Vec<u8> {
    match &request.task {
        Task::Chat(input) => {
            input.messages.last().map(|m| content_text(&m.content)).unwrap_or_default().into_bytes()
        }
        Task::Completion { prompt: Prompt::Text(text) | Prompt::Marked(text), .. } => {
            text.clone().into_bytes()
        }
        Task::Completion { prompt: Prompt::Infill(gap), .. } => {
            [&gap.prefix, "[gap]", &gap.suffix].concat().into_bytes()
        }
        Task::Completion { prompt: Prompt::Tokens(ids), .. } => ids.iter().map(|id| id.0 as u8).collect(),
    }
}

/// A token's log-probability: nearer 0 for smaller bytes.
fn token(byte: u8, top: u32, first: bool) -> TokenLogprob {
    let logprob = |byte: u8| -f32::from(byte) / 32.0;
    TokenLogprob {
        token: TokenId(byte.into()),
        bytes: vec![byte],
        logprob: (!first).then(|| logprob(byte)),
        rank: if first { 0 } else { u32::from(byte) + 1 },
        top: if first {
            Vec::new()
        } else {
            (b'A'..).take(top as usize).map(|b| (TokenId(b.into()), vec![b], logprob(b))).collect()
        },
    }
}

fn choice_scenes(request: &Request, prompt: &[u8], choice: u32, scenes: &mut VecDeque<Scene>) -> u64 {
    let mut push = |event| scenes.push_back(Scene::Delta(Delta { choice, event }));
    if matches!(request.task, Task::Completion { echo: Echo::Yes, .. }) {
        push(Event::Text { text: String::from_utf8_lossy(prompt).into_owned(), logprobs: Vec::new() });
    }
    let mut answer = if choice == 0 { Vec::new() } else { format!("({choice}) ").into_bytes() };
    answer.extend_from_slice(b"You said: ");
    answer.extend_from_slice(prompt);
    let mut reason = FinishReason::Stop { matched: None };
    let stops = request.stop.iter().filter_map(|stop| {
        let at = answer.windows(stop.len()).position(|w| w == stop.as_bytes())?;
        Some((at, stop.clone()))
    });
    if let Some((at, stop)) = stops.min() {
        answer.truncate(at);
        reason = FinishReason::Stop { matched: Some(stop) };
    }
    if let Some(max) = request.max_tokens
        && answer.len() > max as usize
    {
        answer.truncate(max as usize);
        reason = FinishReason::Length;
    }
    // Whole characters leave at once, with the tokens since the last one.
    let mut begin = 0;
    while begin < answer.len() {
        let chunk = answer[begin..].utf8_chunks().next().expect("not empty");
        let len = match chunk.valid().chars().next() {
            Some(c) => c.len_utf8(),
            None => chunk.invalid().len(),
        };
        let bytes = &answer[begin..begin + len];
        let logprobs =
            request.logprobs.map_or(Vec::new(), |top| bytes.iter().map(|b| token(*b, top, false)).collect());
        push(Event::Text { text: String::from_utf8_lossy(bytes).into_owned(), logprobs });
        begin += len;
    }
    push(Event::Finished(reason));
    answer.len() as u64
}

/// Two calls of the first tool: one with an id of the model's, one without; thoughts and text before them.
fn call_scenes(request: &Request) -> Vec<Scene> {
    let Task::Chat(ChatInput { tools, .. }) = &request.task else { panic!("only conversations call") };
    let name = tools[0]["function"]["name"].as_str().expect("a name");
    let call = |index, id: Option<&str>| Event::ToolCall { index, id: id.map(Into::into), name: name.into() };
    let arguments = |index, json: &str| Event::ToolArguments { index, json: json.into() };
    let events = [
        Event::Reasoning { text: "Hm.".into(), logprobs: Vec::new() },
        call(0, Some("abcdef123")),
        arguments(0, "{\"a\":"),
        arguments(0, "1}"),
        call(1, None),
        arguments(1, "{}"),
        Event::Finished(FinishReason::ToolCalls),
        Event::Done(Usage { prompt_tokens: 5, completion_tokens: 9, ..Usage::default() }),
    ];
    events.into_iter().map(|event| Scene::Delta(Delta { choice: 0, event })).collect()
}

fn scenes(request: &Request) -> Result<VecDeque<Scene>, ProviderError> {
    let prompt = prompt_bytes(request);
    let max_tokens = request.max_tokens;
    if prompt.len() + max_tokens.unwrap_or(0) as usize > N_CTX {
        return Err(ProviderError::ContextLength { prompt_tokens: prompt.len(), max_tokens, n_ctx: N_CTX });
    }
    let mut scenes = VecDeque::new();
    let delta = |event| Scene::Delta(Delta { choice: 0, event });
    let text = |text: &str| delta(Event::Text { text: text.into(), logprobs: Vec::new() });
    scenes.push_back(delta(Event::Started { prompt_tokens: prompt.len() as u64, seed: 7 }));
    if let Some(top) = request.prompt_logprobs {
        let tokens = prompt.iter().enumerate().map(|(i, b)| token(*b, top, i == 0)).collect();
        scenes.push_back(delta(Event::PromptLogprobs(tokens)));
    }
    match prompt.as_slice() {
        b"!overloaded" => {
            return Err(ProviderError::Overloaded { waiting: 9, retry_after: Duration::from_millis(2500) });
        }
        b"!unavailable" => return Err(ProviderError::Unavailable("it is going away".into())),
        b"!taken" => return Err(ProviderError::Busy("the place is taken".into())),
        b"!unusable" => return Err(ProviderError::Unusable("the file is damaged".into())),
        b"!internal" => return Err(ProviderError::Internal("secret detail at 0xdeadbeef".into())),
        b"!invalid" => {
            return Err(ProviderError::InvalidRequest {
                message: "the template refuses this conversation".into(),
                param: Some("messages".into()),
            });
        }
        b"!panic" => panic!("as directed"),
        b"!fail midway" => {
            scenes.extend([text("Half an"), Scene::Fail(ProviderError::Internal("secret detail".into()))]);
            return Ok(scenes);
        }
        b"!end early" => {
            scenes.push_back(text("Half an"));
            return Ok(scenes);
        }
        b"!priority" => {
            scenes.push_back(text(&format!("{:?}", request.priority)));
            scenes.push_back(delta(Event::Finished(FinishReason::Stop { matched: None })));
            scenes.push_back(delta(Event::Done(Usage::default())));
            return Ok(scenes);
        }
        b"!hang" => {
            scenes.extend([text("Half an"), Scene::Hang]);
            return Ok(scenes);
        }
        b"!flood" => {
            // Far more than socket buffers hold.
            scenes.extend((0..2000).map(|_| text(&"flood ".repeat(2000))));
            scenes.push_back(Scene::Hang);
            return Ok(scenes);
        }
        b"!think" => {
            // Thoughts before an answer, token by token where that is asked for.
            for thought in ["Hm, ", "so."] {
                let tokens =
                    request.logprobs.map(|top| thought.bytes().map(|b| token(b, top, false)).collect());
                let logprobs = tokens.unwrap_or_default();
                scenes.push_back(delta(Event::Reasoning { text: thought.into(), logprobs }));
            }
        }
        b"!call" => {
            scenes.extend(call_scenes(request));
            return Ok(scenes);
        }
        b"!think and call" => {
            let thought = |text: &str| delta(Event::Reasoning { text: text.into(), logprobs: Vec::new() });
            let call = |index, id: Option<&str>, name: &str| {
                delta(Event::ToolCall { index, id: id.map(Into::into), name: name.into() })
            };
            let arguments = |index, json: &str| delta(Event::ToolArguments { index, json: json.into() });
            scenes.extend([thought("Which "), thought("time?"), text("I'll look.")]);
            scenes.extend([call(0, Some("given"), "now"), arguments(0, "{\"tz\":"), arguments(0, "1}")]);
            scenes.extend([call(1, None, "then"), arguments(1, "{}")]);
            scenes.push_back(delta(Event::Finished(FinishReason::ToolCalls)));
            scenes.push_back(delta(Event::Done(Usage {
                prompt_tokens: 16,
                completion_tokens: 9,
                reasoning_tokens: 2,
                ..Usage::default()
            })));
            return Ok(scenes);
        }
        b"!messages" => {
            let Task::Chat(input) = &request.task else { return Ok(scenes) };
            let said = |m: &Message| {
                let mut line = format!("{}: {}", m.role.name(), content_text(&m.content));
                line.extend(m.reasoning.iter().map(|r| format!(" (thought: {r})")));
                line.extend(m.tool_calls.iter().map(|c| format!(" [{}{}]", c.name, c.arguments)));
                line
            };
            let lines: Vec<String> = input.messages.iter().map(said).collect();
            scenes.push_back(text(&lines.join("\n")));
            scenes.push_back(delta(Event::Finished(FinishReason::Stop { matched: None })));
            scenes.push_back(delta(Event::Done(Usage::default())));
            return Ok(scenes);
        }
        b"!gate" => scenes.push_back(Scene::Gate),
        b"!slow" => scenes.push_back(Scene::Pause(Duration::from_millis(700))),
        _ => {}
    }
    let choices = 0..request.n;
    let completion_tokens = choices.map(|c| choice_scenes(request, &prompt, c, &mut scenes)).sum();
    scenes.push_back(delta(Event::Done(Usage {
        prompt_tokens: prompt.len() as u64,
        cached_tokens: prompt.len() as u64 / 2,
        completion_tokens,
        ..Usage::default()
    })));
    Ok(scenes)
}

impl Scripted {
    /// Lets `!gate` and `!busy` go on, those that come later, too.
    pub fn open(&self) {
        self.gate.send_replace(true);
    }

    /// Work that keeps its thread until the gate is open.
    fn keep_thread(&self) {
        self.busy.fetch_add(1, Ordering::SeqCst);
        let begun = Instant::now();
        while !*self.gate.borrow() {
            assert!(begun.elapsed() < Duration::from_secs(10), "nobody is served beside this work");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Provider for Scripted {
    fn start(&self, request: Request) -> StartFuture<'_> {
        Box::pin(async move {
            let scenes = scenes(&request)?;
            if prompt_bytes(&request) == b"!busy" {
                self.keep_thread();
            }
            let (room, live) = (self.room.load(Ordering::SeqCst), self.live.load(Ordering::SeqCst));
            if room > 0 && live >= room {
                return Err(ProviderError::Overloaded { waiting: live, retry_after: Duration::from_secs(1) });
            }
            self.started.fetch_add(1, Ordering::SeqCst);
            self.live.fetch_add(1, Ordering::SeqCst);
            let stream: DeltaStream =
                Box::pin(Play { scenes, gate: self.gate.subscribe(), pause: None, live: self.live.clone() });
            Ok(stream)
        })
    }

    /// Counts of bytes, by what they leave when divided by 4. Prompts that fail as completions fail here too.
    fn embed(&self, request: EmbedRequest) -> EmbedFuture<'_> {
        Box::pin(async move {
            let mut items = Vec::new();
            let mut hangs = false;
            for input in &request.inputs {
                let task = Task::Completion { prompt: input.prompt.clone(), echo: Echo::No };
                let completion = Request::new("embed", request.principal.clone(), task);
                let mut bytes = prompt_bytes(&completion);
                let n_tokens = bytes.len() as u64;
                if request.truncate {
                    bytes.truncate(N_CTX);
                } else {
                    scenes(&completion)?;
                }
                hangs |= bytes == b"!hang";
                let truncated_from = (n_tokens > bytes.len() as u64).then_some(n_tokens);
                let mut vector = vec![0.0; request.dimensions.map_or(4, |n| n as usize)];
                let n = vector.len();
                bytes.iter().for_each(|b| vector[usize::from(*b) % n] += 1.0);
                if request.normalize {
                    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
                    vector.iter_mut().for_each(|x| *x /= length);
                }
                items.push(Embedding { vector, n_tokens: bytes.len() as u64, truncated_from });
            }
            let usage = Usage { prompt_tokens: items.iter().map(|i| i.n_tokens).sum(), ..Usage::default() };
            self.started.fetch_add(1, Ordering::SeqCst);
            self.live.fetch_add(1, Ordering::SeqCst);
            let live = Live(self.live.clone());
            Ok(Box::pin(async move {
                let _live = live;
                if hangs {
                    std::future::pending::<()>().await;
                }
                Ok(Embeddings { items, usage, of_pairs: false })
            }) as EmbeddingsFuture)
        })
    }

    fn prompt(&self, request: &Request) -> Result<Prompted, ProviderError> {
        scenes(request)?;
        let bytes = prompt_bytes(request);
        let text = format!("<s>{}", String::from_utf8_lossy(&bytes));
        Ok(Prompted { text, tokens: bytes.into_iter().map(|b| TokenId(b.into())).collect() })
    }

    /// Bytes; a beginning is token 1, and `<s>` spells it.
    fn tokenize(
        &self,
        _model: Option<&str>,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<TokenId>, ProviderError> {
        let begin = if add_special { "\u{1}" } else { "" };
        let text = if parse_special { text.replace("<s>", "\u{1}") } else { text.to_owned() };
        Ok([begin, &text].concat().bytes().map(|b| TokenId(b.into())).collect())
    }

    fn token_bytes(&self, _model: Option<&str>, tokens: &[TokenId]) -> Result<Vec<Vec<u8>>, ProviderError> {
        let bytes = |token: &TokenId| match u8::try_from(token.0) {
            Ok(1) => Ok(b"<s>".to_vec()),
            Ok(byte) => Ok(vec![byte]),
            Err(_) => Err(ProviderError::InvalidRequest {
                message: format!("there is no token {token}"),
                param: Some("tokens".into()),
            }),
        };
        tokens.iter().map(bytes).collect()
    }

    fn flush_cache(&self, principal: &Principal) -> Result<(), ProviderError> {
        self.flushed.lock().unwrap().push(principal.clone());
        Ok(())
    }

    fn models(&self) -> Vec<ModelInfo> {
        vec![ModelInfo {
            id: "scripted".into(),
            created: 1_700_000_000,
            n_ctx: N_CTX,
            n_ctx_train: 2 * N_CTX,
            n_vocab: 256,
            n_embd: 64,
            n_params: 1000,
            size_bytes: 4000,
            fingerprint: "fp-scripted".into(),
            parent: None,
            numeric_path: "scripted-n1-kv_f32-ctx4096".into(),
            defaults: Sampling::default(),
            details: ModelDetails {
                architecture: "llama".into(),
                quantization: "Q8_0".into(),
                digest: "5c".repeat(32),
                template: Some("{{ messages }}".into()),
                has_tools: true,
                has_reasoning: true,
                ..ModelDetails::default()
            },
        }]
    }

    fn status(&self) -> ProviderStatus {
        let loading = self.loading.load(Ordering::SeqCst);
        ProviderStatus {
            ready: !loading,
            loading: loading.then_some(0.5),
            running: self.live.load(Ordering::SeqCst),
            waiting: 3,
            sequences_max: 2,
            kv_blocks_used: 25,
            kv_blocks_total: 100,
            memory_bytes: 5_000_000,
            prompt_tokens_total: 70,
            cached_tokens_total: 30,
            generated_tokens_total: 42,
            decode_tokens_per_s: 12.5,
            ..ProviderStatus::default()
        }
    }
}
