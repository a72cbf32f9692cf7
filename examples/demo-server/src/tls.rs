//! The certificate of `--tls-cert` and `--tls-key`.

use std::{io, path::Path, sync::Arc};

use tower_stream_serve::rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// The configuration for these PEM files: the certificates, the server's own first, and its key.
pub(crate) fn config(cert: &Path, key: &Path) -> io::Result<Arc<ServerConfig>> {
    let certificates = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| invalid("--tls-cert", cert, error))?;
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|error| invalid("--tls-key", key, error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| {
            config
                .with_no_client_auth()
                .with_single_cert(certificates, private)
        })
        .map_err(|error| invalid("--tls-cert", cert, error))?;
    Ok(Arc::new(config))
}

fn invalid(flag: &str, file: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{flag} {}: {error}", file.display()),
    )
}
