//! What the client accepts (RFC 9110 section 12.5.3).

use http::{HeaderMap, header};
use tower_stream_core::list_members;

use crate::{Coding, settings::Codings};

/// The weights of a request's `Accept-Encoding`, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Accepted {
    codings: [Option<u16>; Coding::ALL.len()],
    identity: Option<u16>,
    /// The weight of `*`, for codings that are not named.
    others: Option<u16>,
}

impl Accepted {
    /// Members that are not well-formed, and codings that nobody here knows, are skipped.
    fn of(headers: &HeaderMap) -> Self {
        let mut accepted = Self::default();
        for member in list_members(headers, &header::ACCEPT_ENCODING) {
            let (name, parameters) = member.split_once(';').unwrap_or((member, ""));
            let (name, Some(weight)) = (name.trim(), weight(parameters)) else {
                continue;
            };
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            let place = if is("identity") {
                &mut accepted.identity
            } else if is("*") {
                &mut accepted.others
            } else if is("gzip") || is("x-gzip") {
                // RFC 9110 section 8.4.1.3
                &mut accepted.codings[Coding::Gzip as usize]
            } else if is("br") {
                &mut accepted.codings[Coding::Br as usize]
            } else if is("zstd") {
                &mut accepted.codings[Coding::Zstd as usize]
            } else {
                continue;
            };
            *place = (*place).max(Some(weight));
        }
        accepted
    }

    fn weight(&self, coding: Coding) -> u16 {
        let named = self.codings[coding as usize];
        named.or(self.others).unwrap_or(0)
    }
}

/// The weight in these parameters: `q=` with at most three decimals (RFC 9110 section 12.4.2), 1 without.
fn weight(parameters: &str) -> Option<u16> {
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return Some(1000);
    }
    let (name, value) = parameters.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let value = value.trim();
    let (whole, decimals) = value.split_once('.').unwrap_or((value, ""));
    let digits = decimals.bytes().all(|byte| byte.is_ascii_digit());
    if decimals.len() > 3 || !digits {
        return None;
    }
    let decimals = decimals
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(3)
        .fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    match (whole, decimals) {
        ("0", _) => Some(decimals),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

/// The coding and level of `codings`, the server's preferred one first, that the client weighs highest. `None` is
/// identity: the client prefers it, accepts nothing else, or has no `Accept-Encoding`.
///
/// If the client accepts neither a coding nor identity, identity is sent all the same: RFC 9110 section 12.1 lets a server
/// disregard the field in place of a 406, and a client that can read nothing is rarer than a wrong header.
pub(crate) fn choose(headers: &HeaderMap, codings: Codings) -> Option<(Coding, u8)> {
    if !headers.contains_key(header::ACCEPT_ENCODING) {
        return None;
    }
    let accepted = Accepted::of(headers);
    let mut chosen = None;
    // Identity is acceptable without being named, but then any coding that is named is preferred.
    let mut best = accepted.identity.unwrap_or(0);
    for (coding, level) in codings.iter() {
        let weight = accepted.weight(coding);
        let better = weight > best || (weight == best && chosen.is_none());
        if weight > 0 && better {
            best = weight;
            chosen = Some((coding, level));
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::Settings;

    fn chosen(lines: &[&str]) -> &'static str {
        let mut headers = HeaderMap::new();
        for line in lines {
            let line = HeaderValue::from_bytes(line.as_bytes()).unwrap();
            headers.append(header::ACCEPT_ENCODING, line);
        }
        let codings =
            Settings::on().all_codings([(Coding::Zstd, 3), (Coding::Br, 4), (Coding::Gzip, 6)]);
        choose(&headers, codings).map_or("identity", |(coding, _)| coding.as_str())
    }

    #[test]
    fn the_best_weight_wins_and_the_server_decides_between_equals() {
        for (line, coding) in [
            ("gzip", "gzip"),
            ("x-gzip", "gzip"),
            ("GZip;Q=1.000", "gzip"),
            ("gzip, deflate, br, zstd", "zstd"),
            ("gzip, deflate, br", "br"),
            ("br;q=0.9, gzip;q=0.8", "br"),
            ("br;q=0.8, gzip;q=0.9", "gzip"),
            ("br ; q=0.001 , gzip ;q=0", "br"),
            ("*", "zstd"),
            ("*, zstd;q=0", "br"),
            ("*;q=0, gzip", "gzip"),
            ("*;q=0", "identity"),
            ("identity", "identity"),
            ("identity, gzip", "gzip"),
            ("identity;q=0.5, gzip;q=0.4", "identity"),
            ("identity;q=0, gzip;q=0.1", "gzip"),
            ("gzip;q=0", "identity"),
            ("deflate, compress, dcb", "identity"),
            ("gzip;q=0.1, gzip;q=0.7, br;q=0.5", "gzip"),
        ] {
            assert_eq!(chosen(&[line]), coding, "{line}");
        }
        assert_eq!(chosen(&["br;q=0.1", "gzip"]), "gzip");
        assert_eq!(chosen(&[]), "identity");
    }

    #[test]
    fn nothing_acceptable_is_identity() {
        assert_eq!(chosen(&["identity;q=0"]), "identity");
        assert_eq!(chosen(&["identity;q=0, deflate"]), "identity");
        assert_eq!(chosen(&["*;q=0, identity;q=0"]), "identity");
    }

    #[test]
    fn garbage_is_no_choice_and_hides_none() {
        for line in [
            "",
            ",",
            ";",
            ";;q=1",
            "q=1",
            "gzip;q",
            "gzip;q=",
            "gzip;q=2",
            "gzip;q=-1",
            "gzip;q=1.001",
            "gzip;q=0.0001",
            "gzip;q=0.5;x=1",
            "gzip;level=9",
            "gzip q=1",
            "\"gzip\"",
            "\u{e4}gzip",
        ] {
            assert_eq!(chosen(&[line]), "identity", "{line}");
            if !line.contains('"') {
                assert_eq!(chosen(&[&format!("{line},br;q=0.5")]), "br", "{line}");
            }
        }
    }

    #[test]
    fn a_long_field_is_read_once() {
        let garbage = "x;q=0.5,,\",".repeat(9_000);
        assert_eq!(chosen(&[&garbage]), "identity");
        let known = "deflate;q=0.5, ".repeat(7_000) + "gzip";
        assert!(known.len() > 100_000);
        assert_eq!(chosen(&[&known]), "gzip");
    }
}
