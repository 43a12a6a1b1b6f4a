//! Packets that are neither publishes nor their answers: subscriptions and the goodbye.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use super::ending::End;
use crate::source::mqtt::codec::{self, Control};

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    pub(super) async fn control(&mut self, control: Control) -> Option<End> {
        let version = self.terms.client.version;
        match control {
            Control::Subscribe(pkid, filters) => {
                let most = self.shared.limits.subscriptions;
                let permissions = &self.terms.permissions;
                let subscriber = &mut self.session.subscriber;
                match subscriber.subscribe(filters, version, permissions, &self.shared.hub, most).await {
                    Ok(codes) => {
                        let refused = codes.iter().filter(|code| **code >= 0x80).count();
                        self.shared.metrics.denied.inc_by(refused as u64);
                        codec::write_suback(&mut self.out, version, pkid, &codes);
                        None
                    }
                    Err(_) => Some(End::Router),
                }
            }
            Control::Unsubscribe(pkid, filters) => {
                match self.session.subscriber.unsubscribe(&filters).await {
                    Ok(codes) => {
                        codec::write_unsuback(&mut self.out, version, pkid, &codes);
                        None
                    }
                    Err(_) => Some(End::Router),
                }
            }
            Control::Disconnect { with_will, session_expiry } => {
                if let Some(seconds) = session_expiry
                    && self.terms.keep_session != Some(Duration::ZERO)
                {
                    self.terms.keep_session =
                        (seconds != u32::MAX).then(|| Duration::from_secs(u64::from(seconds)));
                }
                Some(End::Graceful { with_will })
            }
            // The others are answered where they are read.
            Control::PubAck(_) | Control::PubRel(_) | Control::Ping => None,
        }
    }
}
