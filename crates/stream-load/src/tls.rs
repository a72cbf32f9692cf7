//! TLS for client connections.

use std::{io, path::Path, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    },
};

use crate::{Args, Http, UsageError};

/// Opens TLS connections to the host of the URL.
pub(crate) struct Tls {
    connector: TlsConnector,
    host: ServerName<'static>,
    http: Http,
}

impl Tls {
    /// Returns `None` when the scheme of the URL is not `https`.
    pub(crate) fn new(args: &Args) -> Result<Option<Self>, UsageError> {
        if args.url.scheme_str() != Some("https") {
            return Ok(None);
        }
        let host = args.url.host().unwrap_or_default().trim_matches(['[', ']']);
        let host = ServerName::try_from(host.to_owned())
            .map_err(|error| UsageError(format!("{}: {error}", args.url)))?;
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| UsageError(error.to_string()))?;
        let config = if args.insecure {
            config
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        } else {
            config.with_root_certificates(roots(args.cacert.as_deref())?)
        };
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = vec![protocol(args.http).to_vec()];
        Ok(Some(Self {
            connector: TlsConnector::from(Arc::new(config)),
            host,
            http: args.http,
        }))
    }

    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let stream = self.connector.connect(self.host.clone(), stream).await?;
        // HTTP/2 over TLS requires ALPN (RFC 9113 section 3.2). A server without ALPN speaks HTTP/1.1.
        if self.http == Http::H2 && stream.get_ref().1.alpn_protocol() != Some(protocol(self.http))
        {
            return Err(io::Error::other("the server did not choose h2 (ALPN)"));
        }
        Ok(stream)
    }
}

fn protocol(http: Http) -> &'static [u8] {
    match http {
        Http::H1 => b"http/1.1",
        Http::H2 => b"h2",
    }
}

/// The certificates in `file`, or those that the system trusts.
fn roots(file: Option<&Path>) -> Result<RootCertStore, UsageError> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let instead = "the system trusts no certificate authority: give --cacert <FILE>";
            return Err(UsageError(instead.to_owned()));
        }
        return Ok(roots);
    };
    let error =
        |error: &dyn std::fmt::Display| UsageError(format!("--cacert {}: {error}", file.display()));
    for certificate in CertificateDer::pem_file_iter(file).map_err(|e| error(&e))? {
        let certificate = certificate.map_err(|e| error(&e))?;
        roots.add(certificate).map_err(|e| error(&e))?;
    }
    if roots.is_empty() {
        return Err(error(&"takes a file of PEM certificates, and has none"));
    }
    Ok(roots)
}

/// Accepts every certificate, for `--insecure`. The server must still prove that it holds the certificate's private
/// key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}
