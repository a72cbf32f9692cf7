//! Which requests belong together.

use std::{
    fmt,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    net::IpAddr,
    sync::Arc,
};

use http::{HeaderMap, HeaderName, Request, request::Parts};
use tower_stream_core::{forwarded_address, peer_address, with_head};

/// Which requests share a limit: those of one client address, with one value of a header, or by a rule of your own.
///
/// A key is stored as a hash of 128 bits with a random seed, so a long key takes no more memory than a short one, and a
/// client cannot construct two keys that collide. Requests without a key share one.
///
/// ```
/// use tower_stream_limit::KeyBy;
///
/// let client = KeyBy::peer();
/// let behind_one_proxy = KeyBy::forwarded_for(1);
/// let api_key = KeyBy::header("x-api-key".parse().unwrap());
/// let path = KeyBy::new(|head| Some(head.uri.path().to_owned()));
/// # let _ = (client, behind_one_proxy, api_key, path);
/// ```
#[derive(Clone)]
pub struct KeyBy {
    rule: Rule,
    hashers: Arc<[RandomState; 2]>,
}

#[derive(Clone)]
enum Rule {
    Peer,
    Forwarded(usize),
    Header(HeaderName),
    Custom(Arc<Custom>),
}

/// Writes the key into the hasher. Returns false if the request has none.
type Custom = dyn Fn(&Parts, &mut dyn Hasher) -> bool + Send + Sync;

impl KeyBy {
    /// The peer address of the connection, from axum's `ConnectInfo` or `serve` of `tower-stream-serve`, see
    /// [`PeerAddr`](tower_stream_core::PeerAddr). Of an IPv6 address, the first 64 bits: one host chooses the others freely.
    ///
    /// Behind a proxy this is the address of the proxy.
    #[must_use]
    pub fn peer() -> Self {
        Self::of(Rule::Peer)
    }

    /// The client address that the outermost of `proxies` trusted proxies has seen, from `X-Forwarded-For`: each proxy appends
    /// the address of its peer, so this is the member with this number from the right. Members further left were written by
    /// the client and are ignored.
    ///
    /// If the field has fewer members, or this one is no address, the request did not come through the proxies, and the peer
    /// address is used. Use it only if clients cannot reach the server directly.
    #[must_use]
    pub fn forwarded_for(proxies: usize) -> Self {
        Self::of(Rule::Forwarded(proxies))
    }

    /// The value of a header, for example an API key. Of several lines, the first.
    ///
    /// A client chooses its headers: use one whose value is verified before the limit.
    #[must_use]
    pub fn header(name: HeaderName) -> Self {
        Self::of(Rule::Header(name))
    }

    /// A rule of your own. `None`: the request has no key.
    #[must_use]
    pub fn new<K: Hash>(rule: impl Fn(&Parts) -> Option<K> + Send + Sync + 'static) -> Self {
        let custom = move |head: &Parts, mut hasher: &mut dyn Hasher| {
            let key = rule(head);
            key.map(|key| key.hash(&mut hasher)).is_some()
        };
        Self::of(Rule::Custom(Arc::new(custom)))
    }

    fn of(rule: Rule) -> Self {
        Self {
            rule,
            hashers: Arc::new([RandomState::new(), RandomState::new()]),
        }
    }

    /// The key of a request.
    pub(crate) fn key<B>(&self, request: &mut Request<B>) -> Option<u128> {
        let mut hasher = Both(
            self.hashers[0].build_hasher(),
            self.hashers[1].build_hasher(),
        );
        let peer = |request: &Request<B>| peer_address(request.extensions()).map(|peer| peer.ip());
        let found = match &self.rule {
            Rule::Peer => hash_address(peer(request), &mut hasher),
            Rule::Forwarded(proxies) => {
                let address = forwarded(request.headers(), *proxies);
                hash_address(address.or_else(|| peer(request)), &mut hasher)
            }
            Rule::Header(name) => {
                let value = request.headers().get(name);
                value.map(|value| hasher.write(value.as_bytes())).is_some()
            }
            Rule::Custom(rule) => with_head(request, |head| rule(head, &mut hasher)),
        };
        found.then(|| hasher.both())
    }
}

/// Computes two independent hashes.
struct Both<H>(H, H);

impl<H: Hasher> Both<H> {
    fn both(&self) -> u128 {
        u128::from(self.0.finish()) << 64 | u128::from(self.1.finish())
    }
}

impl<H: Hasher> Hasher for Both<H> {
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
        self.1.write(bytes);
    }

    fn finish(&self) -> u64 {
        self.0.finish()
    }
}

fn hash_address(address: Option<IpAddr>, hasher: &mut impl Hasher) -> bool {
    match address.map(|address| address.to_canonical()) {
        Some(IpAddr::V4(address)) => hasher.write(&address.octets()),
        Some(IpAddr::V6(address)) => hasher.write(&address.octets()[..8]),
        None => return false,
    }
    true
}

/// The member of `X-Forwarded-For` that the outermost of so many proxies has written.
fn forwarded(headers: &HeaderMap, proxies: usize) -> Option<IpAddr> {
    let from_right = proxies.checked_sub(1)?;
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    // Not a list with quoted strings: a quote of the client must not hide the members that the proxies append.
    let members = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let mut members = members
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty());
    forwarded_address(str::from_utf8(members.nth(from_right)?).ok()?)
}

impl fmt::Debug for KeyBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Rule::Peer => f.write_str("KeyBy::peer"),
            Rule::Forwarded(proxies) => write!(f, "KeyBy::forwarded_for({proxies})"),
            Rule::Header(name) => write!(f, "KeyBy::header({name})"),
            Rule::Custom(_) => f.write_str("KeyBy::new(..)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use tower_stream_core::PeerAddr;

    fn request(peer: &str, lines: &[&str]) -> Request<()> {
        let mut request = Request::new(());
        if let Ok(peer) = peer.parse::<SocketAddr>() {
            request.extensions_mut().insert(PeerAddr(peer));
        }
        for line in lines {
            let value = line.parse().unwrap();
            request.headers_mut().append("x-forwarded-for", value);
        }
        request
    }

    fn same(by: &KeyBy, left: &mut Request<()>, right: &mut Request<()>) -> bool {
        by.key(left) == by.key(right)
    }

    #[test]
    fn a_host_has_one_key_whatever_its_port_and_interface_id() {
        let by = KeyBy::peer();
        for (left, right, is_same) in [
            ("10.0.0.1:1", "10.0.0.1:2", true),
            ("10.0.0.1:1", "10.0.0.2:1", false),
            ("10.0.0.1:1", "[::ffff:10.0.0.1]:1", true),
            ("[2001:db8:1:2::1]:1", "[2001:db8:1:2:ffff::9]:2", true),
            ("[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1", false),
            ("", "", true),
            ("", "10.0.0.1:1", false),
        ] {
            let mut right = request(right, &[]);
            assert_eq!(same(&by, &mut request(left, &[]), &mut right), is_same);
        }
        assert_eq!(by.key(&mut request("", &[])), None);
    }

    #[test]
    fn a_forged_member_of_forwarded_for_is_ignored() {
        let one = KeyBy::forwarded_for(1);
        let direct = &mut request("10.0.0.9:1", &[]);
        let honest = &mut request("10.0.0.9:1", &["1.2.3.4"]);
        assert!(!same(&one, honest, direct));
        for lines in [
            &["9.9.9.9, 1.2.3.4"][..],
            &["9.9.9.9", "1.2.3.4"],
            &["x,, 1.2.3.4:80"],
            &["\"x, 1.2.3.4"],
        ] {
            assert!(same(&one, honest, &mut request("10.0.0.8:1", lines)));
        }
        // With fewer members than proxies, or a member that is no address, the request did not come through the
        // proxies.
        let two = KeyBy::forwarded_for(2);
        for by in [&two, &KeyBy::forwarded_for(0), &KeyBy::peer()] {
            assert!(same(by, honest, direct));
        }
        for line in ["unknown", "", "1.2.3.4.5"] {
            let forged = &mut request("10.0.0.9:1", &[line]);
            assert!(same(&one, forged, direct), "{line:?}");
        }
        let v6 = &mut request("", &["[2001:db8::1]:80"]);
        assert!(same(&one, v6, &mut request("", &["[2001:db8::2]"])));
    }

    #[test]
    fn a_key_of_a_megabyte_is_hashed_and_rules_of_a_user_see_the_head() {
        let long = "a".repeat(1 << 20);
        let by = KeyBy::header("x-key".parse().unwrap());
        let with = |value: &str| Request::get("/a").header("x-key", value).body(()).unwrap();
        assert!(same(&by, &mut with(&long), &mut with(&long)));
        assert!(!same(&by, &mut with(&long), &mut with(&long[1..])));
        let path = KeyBy::new(|head| head.uri.path().strip_prefix("/x/").map(str::to_owned));
        assert_eq!(path.key(&mut with("")), None);
        let mut deeper = Request::get("/x/1").body(()).unwrap();
        assert!(path.key(&mut deeper).is_some());
        assert_eq!(deeper.uri(), "/x/1");
    }
}
