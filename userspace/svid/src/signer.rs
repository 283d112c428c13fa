//! The client of Istio's certificate protocol.

use std::{collections::BTreeMap, time::Duration};

use culvert_mtls::LocalIdentity;
use culvert_wire::proto::ca::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};
use prost_types::{Struct, Value, value::Kind};
use rustls_pki_types::CertificateDer;

use crate::{ControlPort, Issue, IssueError, Request, answer};

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks a control plane (or any CA that speaks `istio.v1.auth.IstioCertificateService`) for certificates.
#[derive(Debug, Clone)]
pub struct Signer {
    port: ControlPort,
    identity: LocalIdentity,
}

impl Signer {
    /// Asks at `port` as `identity`, the node's.
    pub fn new(port: ControlPort, identity: LocalIdentity) -> Self {
        Self { port, identity }
    }
}

impl Issue for Signer {
    async fn issue(&self, request: Request) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        let call = IstioCertificateRequest {
            validity_duration: i64::try_from(request.validity.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(metadata(&request)),
            csr: request.csr,
        };
        // A channel of its own each time: one that stands proves the node certificate it was made with, and is refused
        // when that has ended, however often the node has renewed it since.
        let mut client = IstioCertificateServiceClient::new(self.port.channel(&self.identity));
        let answer = tokio::time::timeout(TIMEOUT, client.create_certificate(call));
        let answer = answer.await.map_err(|_| IssueError::Timeout)??.into_inner();
        answer::chain_of(&answer.cert_chain)
    }
}

/// `ImpersonatedIdentity` is what istiod and istio-csr read; `PodUID` is culvert's addition.
fn metadata(request: &Request) -> Struct {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let mut fields = BTreeMap::from([("ImpersonatedIdentity".to_owned(), text(request.id.as_str()))]);
    if let Some(pod) = &request.pod_uid {
        fields.insert("PodUID".to_owned(), text(pod));
    }
    Struct { fields }
}
