//! The client's address, as far as it can be trusted.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header};
use tower_stream_core::forwarded_address;

/// The source of `client.address`.
///
/// Any client can send `Forwarded` and `X-Forwarded-For`. Only the values that the proxies in front of this server have
/// added can be trusted, so the number of these proxies must be known: with two of them, the client is the second
/// address from the end, which the outer proxy wrote. If there are fewer addresses, or the value is not an address, the
/// peer is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAddress {
    /// The peer of the connection.
    #[default]
    Peer,
    /// `Forwarded` (RFC 7239), with this number of proxies in front of the server that add to it.
    Forwarded(usize),
    /// `X-Forwarded-For`, with this number of proxies in front of the server that add to it.
    XForwardedFor(usize),
}

impl ClientAddress {
    pub(super) fn of(self, headers: &HeaderMap, peer: Option<SocketAddr>) -> Option<IpAddr> {
        let forwarded = match self {
            Self::Peer => None,
            Self::Forwarded(proxies) => {
                from_end(headers, header::FORWARDED, proxies).and_then(forwarded_for)
            }
            Self::XForwardedFor(proxies) => from_end(headers, X_FORWARDED_FOR, proxies),
        };
        forwarded
            .and_then(forwarded_address)
            .or(peer.map(|peer| peer.ip()))
    }
}

const X_FORWARDED_FOR: header::HeaderName = header::HeaderName::from_static("x-forwarded-for");

/// The `number`-th element from the end of a list, where 1 is the last.
///
/// Commas are counted from the end without regard to quotes, because no address contains a comma. Otherwise a client
/// could send an unclosed quotation mark and hide what a proxy added.
fn from_end(headers: &HeaderMap, name: header::HeaderName, number: usize) -> Option<&str> {
    let lines = headers.get_all(name).iter().rev();
    let mut elements = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.rsplit(','));
    elements.nth(number.checked_sub(1)?).map(str::trim)
}

/// The value of `for` in an element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("for")
            .then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "10.0.0.1:4000";

    fn client(of: ClientAddress, lines: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        of.of(&headers, Some(PEER.parse().unwrap()))
            .unwrap()
            .to_string()
    }

    #[test]
    fn what_no_proxy_added_is_not_believed() {
        let spoofed = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "7.7.7.7, 1.2.3.4"),
        ];
        for (of, expected) in [
            (ClientAddress::Peer, "10.0.0.1"),
            (ClientAddress::XForwardedFor(0), "10.0.0.1"),
            (ClientAddress::XForwardedFor(1), "1.2.3.4"),
            (ClientAddress::XForwardedFor(2), "7.7.7.7"),
            (ClientAddress::XForwardedFor(3), "6.6.6.6"),
            (ClientAddress::XForwardedFor(4), "10.0.0.1"),
            (ClientAddress::Forwarded(1), "10.0.0.1"),
        ] {
            assert_eq!(client(of, &spoofed), expected, "{of:?}");
        }
    }

    #[test]
    fn every_form_of_an_address_is_read() {
        for (value, expected) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("by=1.1.1.1; For=\"192.0.2.60:8080\"", "192.0.2.60"),
            ("for=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=\"[2001:db8:cafe::17]\"", "2001:db8:cafe::17"),
            ("for=\", for=192.0.2.61", "192.0.2.61"),
            ("for=unknown", "10.0.0.1"),
            ("for=_hidden", "10.0.0.1"),
            ("proto=https", "10.0.0.1"),
        ] {
            let got = client(ClientAddress::Forwarded(1), &[("forwarded", value)]);
            assert_eq!(got, expected, "{value}");
        }
        for (value, expected) in [
            ("192.0.2.60:8080", "192.0.2.60"),
            ("2001:db8::1", "2001:db8::1"),
            ("a name", "10.0.0.1"),
        ] {
            let got = client(
                ClientAddress::XForwardedFor(1),
                &[("x-forwarded-for", value)],
            );
            assert_eq!(got, expected, "{value}");
        }
    }
}
