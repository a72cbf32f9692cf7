//! A generation with limits: a maximum number of tokens, and stop sequences.

use super::Generation;

/// Why a completion ended (`finish_reason` of the OpenAI API).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The model or a stop sequence ended it.
    Stop,
    /// `max_tokens` ended it.
    Length,
}

/// Returns the text in pieces.
#[derive(Debug)]
pub(crate) struct Completion {
    generation: Generation,
    max_tokens: u64,
    stop: Vec<String>,
    /// Text that may be the start of a stop sequence.
    held: String,
    tokens: u64,
    finish: Option<Finish>,
}

impl Completion {
    /// `stop` must not contain an empty string.
    pub(crate) fn new(generation: Generation, max_tokens: u64, stop: Vec<String>) -> Self {
        Self {
            generation,
            max_tokens,
            stop,
            held: String::new(),
            tokens: 0,
            finish: None,
        }
    }

    /// Returns the next piece, which is never empty: one token, or several if a stop sequence seemed to start.
    pub(crate) fn next_piece(&mut self) -> Result<String, Finish> {
        while self.finish.is_none() {
            if let Some(piece) = self.advance() {
                return Ok(piece);
            }
        }
        if !self.held.is_empty() {
            return Ok(std::mem::take(&mut self.held));
        }
        Err(self.finish.unwrap_or(Finish::Stop))
    }

    /// Number of generated tokens, including those removed by a stop sequence.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Generates one token. Returns the text that can be sent now.
    fn advance(&mut self) -> Option<String> {
        if self.tokens == self.max_tokens {
            self.finish = Some(Finish::Length);
            return None;
        }
        let Some(token) = self.generation.next() else {
            self.finish = Some(Finish::Stop);
            return None;
        };
        self.tokens += 1;
        self.held.push_str(token);
        if let Some(at) = self.stop.iter().filter_map(|s| self.held.find(s)).min() {
            self.held.truncate(at);
            self.finish = Some(Finish::Stop);
            return None;
        }
        let rest = self.held.split_off(self.held.len() - self.undecided());
        let piece = std::mem::replace(&mut self.held, rest);
        (!piece.is_empty()).then_some(piece)
    }

    /// Length of the longest suffix of `held` that is a prefix of a stop sequence.
    fn undecided(&self) -> usize {
        let held = self.held.as_str();
        held.char_indices()
            .map(|(at, _)| &held[at..])
            .find(|end| self.stop.iter().any(|stop| stop.starts_with(end)))
            .map_or(0, str::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MODEL, Sampling};

    fn completion(max_tokens: u64, stop: &[&str]) -> Completion {
        let generation = MODEL.generate(Sampling {
            seed: 1,
            temperature: 1.0,
            min_tokens: 100,
        });
        let stop = stop.iter().map(|&text| text.to_owned()).collect();
        Completion::new(generation, max_tokens, stop)
    }

    fn run(mut completion: Completion) -> (Vec<String>, Finish, u64) {
        let mut pieces = Vec::new();
        loop {
            match completion.next_piece() {
                Ok(piece) => pieces.push(piece),
                Err(finish) => {
                    assert_eq!(completion.next_piece(), Err(finish), "the end stays");
                    return (pieces, finish, completion.tokens());
                }
            }
        }
    }

    #[test]
    fn the_limit_counts_tokens() {
        let (pieces, finish, tokens) = run(completion(20, &[]));
        assert_eq!((pieces.len(), finish, tokens), (20, Finish::Length, 20));
        let (pieces, finish, tokens) = run(completion(10_000, &[]));
        assert_eq!(finish, Finish::Stop);
        assert_eq!(pieces.len() as u64, tokens);
    }

    /// Any part of the text may be a stop sequence. The output is the text before it.
    #[test]
    fn a_stop_sequence_is_never_sent_wherever_it_is_cut() {
        let whole = run(completion(60, &[])).0.concat();
        for from in 0..whole.len() - 12 {
            for length in [1, 2, 5, 12] {
                let stop = &whole[from..from + length];
                let (pieces, finish, _) = run(completion(60, &["\u{e9}", stop, "Alice Alice"]));
                let before = whole.find(stop).unwrap();
                assert_eq!(pieces.concat(), whole[..before], "{stop:?}");
                assert_eq!(finish, Finish::Stop);
                assert!(pieces.iter().all(|piece| !piece.is_empty()));
            }
        }
    }

    #[test]
    fn the_beginning_of_a_stop_sequence_is_sent_when_the_rest_never_comes() {
        let whole = run(completion(30, &[])).0.concat();
        let almost = format!("{}#", &whole[whole.len() - 3..]);
        let (pieces, finish, _) = run(completion(30, &[&almost]));
        assert_eq!((pieces.concat(), finish), (whole, Finish::Length));
    }
}
