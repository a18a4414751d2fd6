//! A server that answers as its script says, and breaks connections where a network would.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use site_recovery::blob::endpoint::Endpoint;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// A request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The request line and the headers, with the empty line behind them.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// What a script answers with.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<&'static str, String>,
    pub(crate) body: Vec<u8>,
}

/// What happens to a request.
pub(crate) enum Reply {
    Answer(Answer),
    /// The head and half of the body; then the connection breaks.
    Torn(Answer),
    /// The head and half of the body; then nothing more comes.
    Stuck(Answer),
    /// The body in chunks, its length not announced.
    Chunked(Answer),
    /// The connection breaks without a word.
    Broken,
    /// Nothing comes, and nothing breaks.
    Silence,
    /// Goes on to another server, with this body.
    Forwarded(SocketAddr, Vec<u8>),
}

type Script = Box<dyn FnMut(&Request) -> Reply + Send>;

/// A running server. Dropping it ends it.
pub(crate) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    accepting: AbortHandle,
}

/// An answer with the headers that the service always sends.
pub(crate) fn answer(status: u16) -> Answer {
    let headers = [
        ("date", "Wed, 21 Jan 2026 10:00:00 GMT"),
        ("last-modified", "Wed, 21 Jan 2026 09:00:00 GMT"),
        ("etag", "\"0x8D1\""),
        ("x-ms-request-id", "r1"),
        ("x-ms-version", "2023-11-03"),
    ];
    Answer {
        status,
        headers: headers.map(|(name, value)| (name, value.to_owned())).into(),
        body: Vec::new(),
    }
}

/// An error as the service words it.
pub(crate) fn refusal(status: u16, code: &str) -> Reply {
    let body = format!("<Error><Code>{code}</Code><Message>as scripted</Message></Error>");
    Reply::Answer(answer(status).with("x-ms-error-code", code).body(body))
}

impl Answer {
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.insert(name, value.into());
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    fn head(&self, length: &str) -> String {
        let headers: String = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        format!(
            "HTTP/1.1 {} As Scripted\r\n{headers}{length}\r\n\r\n",
            self.status
        )
    }

    /// The head, with the length of the body.
    fn announced(&self) -> String {
        self.head(&format!("content-length: {}", self.body.len()))
    }
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// Reads the next request of a connection; nothing at its end.
    async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let mut request = Request {
            head: String::from_utf8(head).unwrap(),
            body: Vec::new(),
        };
        let length = request
            .header("content-length")
            .map_or(0, |text| text.parse().unwrap());
        request.body.resize(length, 0);
        stream.read_exact(&mut request.body).await.ok()?;
        Some(request)
    }
}

impl Server {
    pub(crate) async fn start(script: impl FnMut(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(script)));
        let log = requests.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script.clone(), log.clone()));
            }
        });
        Server {
            address,
            requests,
            accepting: accepting.abort_handle(),
        }
    }

    /// A server whose answers are these, one after another; after them, connections break.
    pub(crate) async fn answering(replies: Vec<Reply>) -> Self {
        let mut replies = replies.into_iter();
        Server::start(move |_| replies.next().unwrap_or(Reply::Broken)).await
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::parse(&format!("http://{}/acct1", self.address)).unwrap()
    }

    /// What came in so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, script: Arc<Mutex<Script>>, log: Arc<Mutex<Vec<Request>>>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = Request::read(&mut stream).await {
        log.lock().unwrap().push(request.clone());
        let reply = script.lock().unwrap()(&request);
        let sent = match reply {
            Reply::Answer(answer) => {
                let body = if request.head.starts_with("HEAD ") {
                    &[][..]
                } else {
                    &answer.body
                };
                stream
                    .write_all(&[answer.announced().as_bytes(), body].concat())
                    .await
            }
            Reply::Torn(answer) | Reply::Stuck(answer) if answer.body.is_empty() => {
                unreachable!("half of nothing: {}", answer.status)
            }
            Reply::Torn(answer) => {
                let half = &answer.body[..answer.body.len() / 2];
                let part = [answer.announced().as_bytes(), half].concat();
                stream.write_all(&part).await.ok();
                return;
            }
            Reply::Stuck(answer) => {
                let half = &answer.body[..answer.body.len() / 2];
                let part = [answer.announced().as_bytes(), half].concat();
                stream.write_all(&part).await.ok();
                std::future::pending().await
            }
            Reply::Chunked(answer) => {
                let mut message = answer.head("transfer-encoding: chunked").into_bytes();
                for chunk in answer.body.chunks(1000) {
                    message.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    message.extend_from_slice(chunk);
                    message.extend(b"\r\n");
                }
                message.extend(b"0\r\n\r\n");
                stream.write_all(&message).await
            }
            Reply::Broken => return,
            Reply::Silence => std::future::pending().await,
            Reply::Forwarded(to, body) => return forward(&mut stream, &request, to, &body).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Sends the request on, with another body, and the answer back; then the connection ends.
async fn forward(
    stream: &mut BufReader<TcpStream>,
    request: &Request,
    to: SocketAddr,
    body: &[u8],
) {
    let mut target = TcpStream::connect(to).await.unwrap();
    let head = request.head.trim_end();
    let message = format!("{head}\r\nconnection: close\r\n\r\n");
    target
        .write_all(&[message.as_bytes(), body].concat())
        .await
        .unwrap();
    let mut answer = Vec::new();
    target.read_to_end(&mut answer).await.unwrap();
    stream.write_all(&answer).await.ok();
}
