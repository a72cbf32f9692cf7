//! What a client is given to name a stream and a position in it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{Epoch, StreamId};

/// Longer cursors are refused unread.
pub(crate) const LONGEST: usize = 256;

const ID_BYTES: usize = 16;
const CODE_BYTES: usize = 12;
/// 28 bytes in base64url, without padding.
const TEXT: usize = 38;

/// The name of a key in the log: an HMAC-SHA-256, whatever the length of the key.
pub(crate) type Name = [u8; 32];

/// Makes the public ids of streams, and recognizes them.
///
/// A public id is the stream's id and a code (an HMAC-SHA-256, cut to 96 bits) of the id and the owner. The server can
/// therefore refuse an id that was guessed, or that belongs to another owner, without reading the log, and it knows of
/// an id whose stream has been removed that it was issued.
#[derive(Clone)]
pub(crate) struct Issuer {
    mac: Hmac<Sha256>,
    /// Has a secret of its own, so that the name of a key is never the code of an id.
    names: Hmac<Sha256>,
}

impl Issuer {
    pub(crate) fn new(secret: &[u8]) -> Self {
        let new = |secret: &[u8]| -> Hmac<Sha256> {
            Hmac::new_from_slice(secret).expect("HMAC takes keys of any length")
        };
        let mac = new(secret);
        let names = mac.clone().chain_update(b"the names of keys").finalize();
        Self {
            mac,
            names: new(&names.into_bytes()),
        }
    }

    /// The name under which the log knows a key with these parts. Each replica finds the same name, and nobody else can.
    pub(crate) fn name(&self, parts: &[&[u8]]) -> Name {
        let mut mac = self.names.clone();
        for part in parts {
            // The length distinguishes `ab` + `c` from `a` + `bc`.
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    fn mac(&self, id: &StreamId, owner: Option<&str>) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(id.as_bytes());
        // The id has a fixed length, and no owner differs from an empty one.
        mac.update(if owner.is_some() { b"o" } else { b"-" });
        mac.update(owner.unwrap_or_default().as_bytes());
        mac
    }

    /// The public id of a stream of this owner.
    pub(crate) fn issue(&self, id: &StreamId, owner: Option<&str>) -> String {
        let code = self.mac(id, owner).finalize().into_bytes();
        let mut bytes = [0; ID_BYTES + CODE_BYTES];
        bytes[..ID_BYTES].copy_from_slice(id.as_bytes());
        bytes[ID_BYTES..].copy_from_slice(&code[..CODE_BYTES]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The stream with this public id.
    pub(crate) fn read(&self, text: &str, owner: Option<&str>) -> Result<StreamId, Refused> {
        if text.len() != TEXT {
            return Err(Refused::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| Refused::Malformed)?;
        let (id, code) = bytes
            .split_first_chunk::<ID_BYTES>()
            .ok_or(Refused::Malformed)?;
        let id = StreamId::from_bytes(*id);
        // In constant time.
        let issued = self.mac(&id, owner).verify_truncated_left(code);
        issued.map(|()| id).map_err(|_| Refused::Foreign)
    }
}

/// Why a cursor is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It has not the form of a cursor.
    Malformed,
    /// It was not issued, or not to this owner.
    Foreign,
}

/// A position in a stream: `<public id>.<epoch>.<offset>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) id: StreamId,
    pub(crate) at: Position,
}

/// The last part of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) epoch: Epoch,
    /// The offset of the last record that the client has received. 0: none.
    pub(crate) offset: u64,
}

impl Position {
    pub(crate) const START: Self = Self {
        epoch: Epoch::FIRST,
        offset: 0,
    };

    /// Reads `<epoch>.<offset>`, or `<offset>` alone, which is one of the first epoch.
    pub(crate) fn read(text: &str) -> Result<Self, Refused> {
        let (epoch, offset) = text.split_once('.').unwrap_or(("1", text));
        let epoch = u32::try_from(number(epoch)?).ok().and_then(Epoch::new);
        Ok(Self {
            epoch: epoch.ok_or(Refused::Malformed)?,
            offset: number(offset)?,
        })
    }
}

impl Cursor {
    pub(crate) fn read(issuer: &Issuer, text: &str, owner: Option<&str>) -> Result<Self, Refused> {
        if text.len() > LONGEST {
            return Err(Refused::Malformed);
        }
        let (id, at) = text.split_once('.').ok_or(Refused::Malformed)?;
        // The form first: a cursor that is malformed is so for everyone.
        let at = Position::read(at)?;
        if !text[id.len() + 1..].contains('.') {
            return Err(Refused::Malformed);
        }
        let id = issuer.read(id, owner)?;
        Ok(Self { id, at })
    }
}

/// A decimal number as this crate writes it. At most 2^62, so that offsets can be added to.
fn number(text: &str) -> Result<u64, Refused> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (text == "0" || !text.starts_with('0'));
    let number = canonical.then(|| text.parse().ok()).flatten();
    number
        .filter(|number| *number <= 1 << 62)
        .ok_or(Refused::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer() -> Issuer {
        Issuer::new(b"secret")
    }

    #[test]
    fn a_cursor_is_read_as_it_was_issued() {
        let id = StreamId::random();
        let text = issuer().issue(&id, Some("alice"));
        let cursor = format!("{text}.3.{}", 1_u64 << 62);
        let at = Position {
            epoch: Epoch::new(3).unwrap(),
            offset: 1 << 62,
        };
        let read = |text, owner| Cursor::read(&issuer(), text, owner);
        assert_eq!(read(&cursor, Some("alice")), Ok(Cursor { id, at }));
        for owner in [Some("bob"), Some(""), None] {
            assert_eq!(read(&cursor, owner), Err(Refused::Foreign), "{owner:?}");
        }
        let other = Issuer::new(b"another secret");
        assert_eq!(
            Cursor::read(&other, &cursor, Some("alice")),
            Err(Refused::Foreign)
        );
    }

    #[test]
    fn a_changed_id_is_foreign_and_other_text_is_malformed() {
        let id = StreamId::random();
        let text = issuer().issue(&id, None);
        for at in 0..TEXT {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'Q' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(issuer().read(&changed, None).is_err(), "{at}");
        }
        for tail in [
            "",
            ".",
            ".1",
            ".1.",
            ".1.x",
            ".1.-1",
            ".1.+1",
            ".1.01",
            ".0.1",
            ".1.1.1",
            ".1.1 ",
            ".4294967296.1",
            ".1.9223372036854775808",
            ".1.99999999999999999999",
            "\u{e9}.1.1",
        ] {
            let cursor = format!("{text}{tail}");
            assert_eq!(
                Cursor::read(&issuer(), &cursor, None),
                Err(Refused::Malformed),
                "{tail}"
            );
        }
        let long = format!("{text}.1.{}", "1".repeat(LONGEST));
        assert_eq!(
            Cursor::read(&issuer(), &long, None),
            Err(Refused::Malformed)
        );
        assert!(Cursor::read(&issuer(), &format!("{text}.1.0"), None).is_ok());
    }
}
