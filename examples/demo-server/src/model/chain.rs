//! The Markov chain: training and sampling.

use std::{collections::HashMap, sync::LazyLock};

use super::tokens;
use crate::text;

/// The model, trained on first use (a few milliseconds).
pub(crate) static MODEL: LazyLock<Model> = LazyLock::new(|| Model::train(text::TEXT));

/// Number of a token.
type Token = usize;

/// Before the first token of a paragraph, and after its last.
const EDGE: Token = 0;

/// How often each token followed which tokens.
#[derive(Debug)]
pub(crate) struct Model {
    words: Vec<&'static str>,
    after_two: HashMap<[Token; 2], Followers>,
    after_one: HashMap<Token, Followers>,
}

/// In the order of first occurrence, so that nothing depends on the order of a hash map.
type Followers = Vec<(Token, u32)>;

/// Parameters of sampling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampling {
    /// The same seed gives the same tokens.
    pub(crate) seed: u64,
    /// 0 always takes the most frequent follower; 1 samples with the frequencies of the text.
    pub(crate) temperature: f64,
    /// Starts a new paragraph while the text has fewer tokens than this.
    pub(crate) min_tokens: u64,
}

impl Model {
    fn train(text: &'static str) -> Self {
        let mut model = Self {
            words: vec!["\n\n"],
            after_two: HashMap::new(),
            after_one: HashMap::new(),
        };
        let mut numbers = HashMap::new();
        for paragraph in text.split("\n\n") {
            let mut context = [EDGE; 2];
            for word in tokens::split(paragraph.trim()) {
                let token = *numbers.entry(word).or_insert_with(|| {
                    model.words.push(word);
                    model.words.len() - 1
                });
                model.learn(context, token);
                context = [context[1], token];
            }
            model.learn(context, EDGE);
        }
        model
    }

    fn learn(&mut self, context: [Token; 2], next: Token) {
        count(self.after_two.entry(context).or_default(), next);
        count(self.after_one.entry(context[1]).or_default(), next);
    }

    /// Starts a text.
    pub(crate) fn generate(&'static self, sampling: Sampling) -> Generation {
        Generation {
            model: self,
            random: fastrand::Rng::with_seed(sampling.seed),
            sampling,
            context: [EDGE; 2],
            made: 0,
        }
    }
}

fn count(followers: &mut Followers, next: Token) {
    match followers.iter_mut().find(|(token, _)| *token == next) {
        Some((_, count)) => *count += 1,
        None => followers.push((next, 1)),
    }
}

/// A text being generated. It ends where a paragraph of the source may end.
#[derive(Debug)]
pub(crate) struct Generation {
    model: &'static Model,
    random: fastrand::Rng,
    sampling: Sampling,
    context: [Token; 2],
    made: u64,
}

impl Iterator for Generation {
    type Item = &'static str;

    fn next(&mut self) -> Option<&'static str> {
        let token = self.draw();
        if token == EDGE {
            if self.made >= self.sampling.min_tokens {
                return None;
            }
            self.context = [EDGE; 2];
        } else {
            self.context = [self.context[1], token];
        }
        self.made += 1;
        Some(self.model.words[token])
    }
}

impl Generation {
    fn draw(&mut self) -> Token {
        let mut followers = &self.model.after_two[&self.context];
        // Two tokens often have only one follower. Without using the last token alone from time to time, the model
        // would recite the source.
        if followers.len() == 1 && self.sampling.temperature > 0.0 && self.random.u8(..4) == 0 {
            followers = &self.model.after_one[&self.context[1]];
        }
        self.pick(followers)
    }

    fn pick(&mut self, followers: &[(Token, u32)]) -> Token {
        if self.sampling.temperature == 0.0 {
            let mut best = followers[0];
            for &follower in followers {
                if follower.1 > best.1 {
                    best = follower;
                }
            }
            return best.0;
        }
        // Relative to the most frequent follower, so that no temperature overflows.
        let most = followers.iter().map(|&(_, count)| count).max().unwrap_or(1);
        let weight =
            |count: u32| (f64::from(count) / f64::from(most)).powf(1.0 / self.sampling.temperature);
        let total: f64 = followers.iter().map(|&(_, count)| weight(count)).sum();
        let mut left = self.random.f64() * total;
        for &(token, count) in followers {
            left -= weight(count);
            if left < 0.0 {
                return token;
            }
        }
        // Rounding can leave a remainder above the last weight.
        followers[followers.len() - 1].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seed: u64, temperature: f64, min_tokens: u64) -> Vec<&'static str> {
        let sampling = Sampling {
            seed,
            temperature,
            min_tokens,
        };
        MODEL.generate(sampling).take(2_000).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens_and_another_seed_others() {
        assert_eq!(text(7, 1.0, 200), text(7, 1.0, 200));
        assert_ne!(text(7, 1.0, 200), text(8, 1.0, 200));
        assert_eq!(text(7, 0.0, 50), text(8, 0.0, 50), "greedy needs no luck");
    }

    #[test]
    fn temperature_0_takes_the_most_frequent_follower() {
        let model: &'static Model = Box::leak(Box::new(Model::train("x b\n\nx c\n\nx c")));
        let sampling = Sampling {
            seed: 0,
            temperature: 0.0,
            min_tokens: 0,
        };
        assert_eq!(model.generate(sampling).collect::<String>(), "x c");
    }

    #[test]
    fn a_temperature_near_0_draws_like_0() {
        assert_eq!(text(7, 1e-9, 20)[0], text(7, 0.0, 20)[0]);
    }

    #[test]
    fn the_tokens_are_pinned() {
        assert_eq!(
            text(1, 1.0, 0)[..12].concat(),
            "It was all very well to say it over afterwards, it"
        );
    }

    #[test]
    fn every_pair_of_neighbours_comes_from_the_text() {
        for seed in 0..50 {
            let mut before = "\n\n";
            for token in text(seed, 1.5, 300) {
                if before != "\n\n" && token != "\n\n" {
                    let pair = format!("{before}{token}");
                    assert!(text::TEXT.contains(&pair), "{pair:?}");
                }
                before = token;
            }
        }
    }

    #[test]
    fn it_does_not_only_recite() {
        let whole = text(3, 1.0, 300).concat();
        assert!(!text::TEXT.contains(&whole));
    }

    #[test]
    fn a_minimum_holds_and_every_text_ends() {
        for seed in 0..50 {
            let made = text(seed, 1.0, 100);
            assert!((100..2_000).contains(&made.len()), "{}", made.len());
        }
    }
}
