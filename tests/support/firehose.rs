//! A Firehose that enforces its limits and misbehaves on request.
//!
//! Speaks just enough HTTP/1.1 and the JSON protocol of `Firehose_20150804.PutRecordBatch`.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of one request.
#[derive(Debug, Clone)]
pub enum Mood {
    /// Stores everything.
    Fine,
    /// Fails the records at these places.
    Partial(Vec<usize>),
    /// Answers with an error code and an HTTP status, stores nothing.
    Error(&'static str, u16),
    /// Stores everything, then drops the connection without an answer.
    StoreAndDrop,
    /// Drops the connection at once.
    Drop,
    /// Accepts and never answers.
    Stall,
    /// Answers something that is no JSON.
    Garbage,
    /// Answers for fewer records than were sent.
    Short,
    /// Refuses the whole request when it carries a record that begins with this byte.
    Poison(u8),
}

#[derive(Debug, Default)]
pub struct Seen {
    /// Moods of the next requests; after them everything is fine.
    pub moods: VecDeque<Mood>,
    /// Moods that do not pass.
    pub always: Option<Mood>,
    /// Records of each request.
    pub requests: Vec<Vec<Vec<u8>>>,
    pub stored: Vec<Vec<u8>>,
    pub connections: usize,
}

pub struct Server {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Seen>>,
}

impl Server {
    pub async fn start(moods: impl IntoIterator<Item = Mood>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen { moods: moods.into_iter().collect(), ..Seen::default() }));
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.lock().unwrap().connections += 1;
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, seen }
    }

    pub fn always(&self, mood: Mood) {
        self.seen.lock().unwrap().always = Some(mood);
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

enum Answer {
    Json(u16, Value),
    Garbage,
    Drop,
    Stall,
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    while let Some((head, body)) = request(&mut stream).await {
        assert!(head.to_lowercase().contains("x-amz-target: firehose_20150804.putrecordbatch"), "{head}");
        let answer = answer(&body, &mut seen.lock().unwrap());
        let (status, text) = match answer {
            Answer::Json(status, value) => (status, value.to_string()),
            Answer::Garbage => (200, "<html>a captive portal</html>".to_owned()),
            Answer::Drop => return,
            Answer::Stall => std::future::pending().await,
        };
        let length = text.len();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {length}\r\n\r\n"
        );
        if stream.write_all((head + &text).as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut data = Vec::new();
    let end = loop {
        if let Some(end) = data.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut data).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&data[..end]).into_owned();
    let length: usize = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map(|(_, value)| value.trim().parse().unwrap())?;
    let mut body = data.split_off(end);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some((head, body))
}

fn error(code: &str, status: u16) -> Answer {
    Answer::Json(status, json!({"__type": code, "message": format!("made to fail: {code}")}))
}

fn answer(body: &[u8], seen: &mut Seen) -> Answer {
    let body: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(body["DeliveryStreamName"], "heart-rate");
    let records: Vec<Vec<u8>> = body["Records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| STANDARD.decode(record["Data"].as_str().unwrap()).unwrap())
        .collect();
    seen.requests.push(records.clone());
    let bytes: usize = records.iter().map(Vec::len).sum();
    if records.is_empty() || records.len() > 500 || records.iter().any(|record| record.len() > 1_000 * 1024) {
        return error("ValidationException", 400);
    }
    if bytes > 4 << 20 {
        return error("InvalidArgumentException", 400);
    }
    let mood = seen.always.clone().or_else(|| seen.moods.pop_front()).unwrap_or(Mood::Fine);
    let failed = match mood {
        Mood::Fine | Mood::StoreAndDrop | Mood::Garbage | Mood::Short => Vec::new(),
        Mood::Partial(ref failed) => failed.clone(),
        Mood::Error(code, status) => return error(code, status),
        Mood::Drop => return Answer::Drop,
        Mood::Stall => return Answer::Stall,
        Mood::Poison(byte) if records.iter().any(|record| record.first() == Some(&byte)) => {
            return error("InvalidArgumentException", 400);
        }
        Mood::Poison(_) => Vec::new(),
    };
    let mut entries: Vec<Value> = Vec::new();
    for (place, record) in records.into_iter().enumerate() {
        if failed.contains(&place) {
            entries.push(json!({"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}));
        } else {
            seen.stored.push(record);
            entries.push(json!({"RecordId": format!("r{}", seen.stored.len())}));
        }
    }
    match mood {
        Mood::StoreAndDrop => return Answer::Drop,
        Mood::Garbage => return Answer::Garbage,
        Mood::Short => drop(entries.pop()),
        _ => {}
    }
    Answer::Json(
        200,
        json!({"FailedPutCount": failed.len(), "Encrypted": false, "RequestResponses": entries}),
    )
}
