//! Tells the control plane what the kernel says: captured or not, addresses, the generation that is enforced.

use std::{sync::Arc, time::Duration};

use culvert_svid::{ControlPort, NodeIdentity};
use culvert_wire::proto::culvert::{NodeReport, status_service_client::StatusServiceClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{enrol::Enroller, snapshot::Current};

/// How often at least.
const PERIOD: Duration = Duration::from_secs(30);
/// How often readiness is looked for before the first report.
const LOOK: Duration = Duration::from_millis(20);
/// After a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// Reports each change, for ever.
pub async fn report(port: ControlPort, identity: Arc<NodeIdentity>, enroller: Arc<Enroller>, current: Arc<Current>) {
    loop {
        let error = one_stream(&port, &identity, &enroller, &current).await;
        tracing::debug!(error, "the status report has ended");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn one_stream(port: &ControlPort, identity: &NodeIdentity, enroller: &Enroller, current: &Current) -> String {
    let (sender, receiver) = mpsc::channel::<NodeReport>(1);
    // Generations are those of the control plane that serves the stream: no other one could make anything of them.
    let mut line = port.line();
    let channel = match line.wait_for(Option::is_some).await {
        Ok(channel) => channel.clone(),
        Err(_) => None,
    };
    let Some(channel) = channel else { return "there will be no stream".to_owned() };
    let mut client = StatusServiceClient::new(channel);
    let call = client.report(ReceiverStream::new(receiver));
    let mut renewed = identity.watch();
    renewed.mark_unchanged();
    let feed = async {
        let (mut changes, mut pods) = (current.changes(), enroller.changes());
        // A report without the pods of a former agent would say that they are gone.
        while current.unready().is_some() {
            tokio::time::sleep(LOOK).await;
        }
        loop {
            changes.borrow_and_update();
            pods.borrow_and_update();
            if sender.send(enroller.report().await.encode()).await.is_err() {
                return;
            }
            tokio::select! {
                changed = pods.changed() => if changed.is_err() { return },
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    };
    tokio::select! {
        answer = call => match answer {
            Ok(_) => "closed by the control plane".to_owned(),
            Err(status) => format!("{}: {}", status.code(), status.message()),
        },
        () = feed => "the report cannot be sent".to_owned(),
        _ = line.changed() => "the stream runs over another connection".to_owned(),
        _ = renewed.changed() => "the node's certificate was renewed".to_owned(),
    }
}
