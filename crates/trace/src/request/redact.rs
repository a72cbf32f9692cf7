//! Removes secrets from queries.

use std::borrow::Cow;

/// Parameters with credentials, in any letter case: those of OpenTelemetry's convention for `url.query`, the other
/// secrets in signed URLs of AWS, Google and Azure, and the usual names for OAuth tokens and API keys.
const SECRETS: [&str; 22] = [
    "AWSAccessKeyId",
    "Signature",
    "sig",
    "X-Goog-Signature",
    "X-Goog-Credential",
    "X-Amz-Signature",
    "X-Amz-Credential",
    "X-Amz-Security-Token",
    "access_token",
    "id_token",
    "refresh_token",
    "auth_token",
    "token",
    "jwt",
    "api_key",
    "api-key",
    "apikey",
    "key",
    "client_secret",
    "secret",
    "password",
    "code",
];

/// The query with `REDACTED` in place of each secret.
pub(super) fn redacted(query: &str) -> Cow<'_, str> {
    let is_secret = |parameter: &str| {
        parameter.split_once('=').is_some_and(|(name, _)| {
            SECRETS
                .iter()
                .any(|secret| secret.eq_ignore_ascii_case(name))
        })
    };
    if !query.split('&').any(is_secret) {
        return Cow::Borrowed(query);
    }
    let mut text = String::with_capacity(query.len());
    for parameter in query.split('&') {
        if !text.is_empty() {
            text.push('&');
        }
        match parameter.split_once('=') {
            Some((name, _)) if is_secret(parameter) => {
                text.push_str(name);
                text.push_str("=REDACTED");
            }
            _ => text.push_str(parameter),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_replaced_and_nothing_else() {
        for (query, expected) in [
            ("", ""),
            ("q=sig&page=2", "q=sig&page=2"),
            ("a&b=&&c", "a&b=&&c"),
            ("sig=abc%3D", "sig=REDACTED"),
            (
                "x-amz-SIGNATURE=1&list-type=2&X-Amz-Credential=AKIA%2F1",
                "x-amz-SIGNATURE=REDACTED&list-type=2&X-Amz-Credential=REDACTED",
            ),
            (
                "token=a=b&tokens=3&access_token=",
                "token=REDACTED&tokens=3&access_token=REDACTED",
            ),
            ("token", "token"),
        ] {
            assert_eq!(redacted(query), expected, "{query}");
        }
    }
}
