//! A small HTTP server on the loopback, whose answers a test writes.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What a program asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// By names in lower case.
    pub headers: HashMap<String, String>,
}

/// What it is answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// How much of the body is sent before the connection is cut; all of it, if not given.
    pub cut_at: Option<usize>,
    /// How long to wait after each part of the body.
    pub pause: Option<Duration>,
    /// Whether `Content-Length` is left out.
    pub unsized_body: bool,
    /// Sent instead of everything else.
    pub raw: Option<Vec<u8>>,
}

/// A server that lives as long as the test process.
pub struct Server {
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte that is asked for.
    pub fn range(&self) -> Option<usize> {
        self.header("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub fn cut_at(self, bytes: usize) -> Self {
        Self {
            cut_at: Some(bytes),
            ..self
        }
    }

    /// A file with an ETag, as a server with ranges gives it.
    pub fn file(request: &Request, bytes: &[u8], etag: &str) -> Self {
        let fits = request.header("if-range").is_none_or(|known| known == etag);
        let answer = match request.range().filter(|_| fits) {
            Some(start) if start >= bytes.len() => {
                return Self::status(416)
                    .header("Content-Range", format!("bytes */{}", bytes.len()));
            }
            Some(start) => {
                let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
                Self {
                    body: bytes[start..].to_vec(),
                    ..Self::status(206)
                }
                .header("Content-Range", range)
            }
            None => Self {
                body: bytes.to_vec(),
                ..Self::status(200)
            },
        };
        answer.header("ETag", etag).header("Accept-Ranges", "bytes")
    }

    /// The same of a server that knows no ranges.
    pub fn whole_file(bytes: &[u8]) -> Self {
        Self {
            body: bytes.to_vec(),
            ..Self::status(200)
        }
    }

    fn send(&self, method: &str, stream: &mut TcpStream) -> std::io::Result<()> {
        if let Some(raw) = &self.raw {
            return stream.write_all(raw);
        }
        let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !self.unsized_body
            && !self
                .headers
                .iter()
                .any(|(name, _)| name == "Content-Length")
        {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if method == "HEAD" {
            return Ok(());
        }
        let body = &self.body[..self.cut_at.unwrap_or(self.body.len()).min(self.body.len())];
        let part = if self.pause.is_some() {
            body.len() / 20 + 1
        } else {
            body.len().max(1)
        };
        for part in body.chunks(part) {
            stream.write_all(part)?;
            self.pause.iter().for_each(|pause| thread::sleep(*pause));
        }
        Ok(())
    }
}

impl Server {
    /// Starts a server. `answer` is given each request and how many came for its path before.
    pub fn start(answer: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        Self { address, requests }
    }

    /// Everything that was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The methods, paths and first bytes that were asked for.
    pub fn log(&self) -> Vec<String> {
        let line = |request: Request| {
            let range = request
                .range()
                .map(|start| format!(" from {start}"))
                .unwrap_or_default();
            format!("{} {}{range}", request.method, request.path)
        };
        self.requests().into_iter().map(line).collect()
    }
}

fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    answer: &(impl Fn(&Request, usize) -> Answer + Send + Sync + ?Sized),
) {
    let mut lines = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let mut words = first.split(' ').map(str::to_string);
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return;
    };
    let headers = lines.take_while(|line| !line.is_empty());
    let headers = headers.filter_map(|line| {
        line.split_once(": ")
            .map(|(name, value)| (name.to_lowercase(), value.into()))
    });
    let request = Request {
        method,
        path,
        headers: headers.collect(),
    };
    let before = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        let same = |known: &&Request| known.path == request.path && known.method == request.method;
        seen.iter().filter(same).count() - 1
    };
    // A client that has gone away is no concern of the server's.
    let _ = answer(&request, before).send(&request.method, &mut stream);
}
