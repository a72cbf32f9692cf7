//! A client as a browser's `EventSource`: it comes back with the id of the last event, until it is told that there is no more.

use std::{error::Error, time::Duration};

use reqwest::{Response, StatusCode};

pub(crate) struct Client {
    url: String,
    http: reqwest::Client,
    answer: Option<Response>,
    /// What was received after the last whole event.
    received: String,
    last_event_id: Option<String>,
    pub(crate) connections: usize,
    pub(crate) gaps: usize,
}

pub(crate) struct Token {
    /// The process that produced it.
    pub(crate) by: u32,
    pub(crate) text: String,
}

/// How often the client comes back without a token: long enough for a lease.
const PATIENCE: usize = 50;

impl Client {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            http: reqwest::Client::new(),
            answer: None,
            received: String::new(),
            last_event_id: None,
            connections: 0,
            gaps: 0,
        }
    }

    /// Loses the connection.
    pub(crate) fn cut(&mut self) {
        self.answer = None;
        self.received.clear();
    }

    /// The next token. `None` at the end of the chat.
    pub(crate) async fn next(&mut self) -> Result<Option<Token>, Box<dyn Error>> {
        let mut tries = 0;
        loop {
            while let Some((event, rest)) = self.received.split_once("\n\n") {
                let field = |name| event.lines().find_map(|line| line.strip_prefix(name));
                let data = field("data: ").map(str::to_owned);
                let is_gap = field("event: ") == Some("gap");
                if let Some(id) = field("id: ") {
                    self.last_event_id = Some(id.to_owned());
                }
                self.received = rest.to_owned();
                match data {
                    Some(_) if is_gap => self.gaps += 1,
                    Some(data) => {
                        let (by, text) = data.split_once(' ').ok_or("no token")?;
                        let (by, text) = (by.parse()?, text.to_owned());
                        return Ok(Some(Token { by, text }));
                    }
                    // Only an id.
                    None => {}
                }
            }
            if let Some(answer) = &mut self.answer {
                match answer.chunk().await {
                    Ok(Some(chunk)) => self.received.push_str(std::str::from_utf8(&chunk)?),
                    // An `EventSource` comes back after an end, too.
                    Ok(None) | Err(_) => self.cut(),
                }
                continue;
            }
            let request = self.http.get(&self.url);
            let request = match &self.last_event_id {
                None => request,
                Some(id) => request.header("last-event-id", id),
            };
            match request.send().await {
                Ok(answer) if answer.status() == StatusCode::NO_CONTENT => return Ok(None),
                Ok(answer) if answer.status().is_success() => {
                    self.connections += 1;
                    self.answer = Some(answer);
                }
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
            tries += 1;
            if tries > PATIENCE {
                return Err("no server goes on with the chat".into());
            }
        }
    }
}
