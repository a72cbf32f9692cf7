//! The number of connections of each client.

use std::{
    any::Any,
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use parking_lot::Mutex;

/// The open connections of each client.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    max: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// The client has reached its limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooMany;

/// One connection of a client, counted until it is dropped. `None` if addresses do not distinguish clients.
#[derive(Debug)]
pub(crate) struct Place(Option<(Clients, IpAddr)>);

impl Clients {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            open: Arc::default(),
        }
    }

    pub(crate) fn enter<A: 'static>(&self, peer: &A) -> Result<Place, TooMany> {
        let Some(peer) = (peer as &dyn Any).downcast_ref::<SocketAddr>() else {
            return Ok(Place(None));
        };
        let client = client(peer.ip());
        let mut open = self.open.lock();
        let count = open.entry(client).or_default();
        if *count >= self.max {
            return Err(TooMany);
        }
        *count += 1;
        Ok(Place(Some((self.clone(), client))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((clients, client)) = &self.0 else {
            return;
        };
        let mut open = clients.open.lock();
        if let Some(count) = open.get_mut(client) {
            *count -= 1;
            if *count == 0 {
                open.remove(client);
            }
        }
    }
}

/// A host usually has a whole /64 (RFC 6177), so this counts as one client.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 1)
    }

    #[test]
    fn each_client_has_its_share_until_its_connections_end() {
        let clients = Clients::new(2);
        let one = clients.enter(&peer("192.0.2.1")).unwrap();
        let _two = clients.enter(&peer("::ffff:192.0.2.1")).unwrap();
        assert!(clients.enter(&peer("192.0.2.1")).is_err());
        let other = clients.enter(&peer("192.0.2.2")).unwrap();
        drop(one);
        let _three = clients.enter(&peer("192.0.2.1")).unwrap();
        assert!(clients.enter(&peer("192.0.2.1")).is_err());
        drop(other);
        assert_eq!(clients.open.lock().len(), 1, "nothing is kept of the gone");
    }

    #[test]
    fn a_host_has_a_64_of_ipv6() {
        let clients = Clients::new(1);
        let _one = clients.enter(&peer("2001:db8::1")).unwrap();
        assert!(clients.enter(&peer("2001:db8::ffff:0:0:2")).is_err());
        assert!(clients.enter(&peer("2001:db8:0:1::1")).is_ok());
        assert!(clients.enter(&"no address").is_ok());
        assert!(clients.enter(&"no address").is_ok());
    }
}
