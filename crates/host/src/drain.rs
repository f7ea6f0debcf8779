//! Who wants a node to take no new calls, and `tandem.node.v1.NodeService`, by which one can.

use control::node::v1::node_service_server::{NodeService, NodeServiceServer};
use control::node::v1::{
    DrainRequest, DrainResponse, DrainSource, UndrainRequest, UndrainResponse,
};
use tonic::{Request, Response, Status};

use crate::handle::Handle;
use crate::process::Role;

/// One who may want a node drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainedBy {
    /// The member's desired state in the registry.
    Registry,
    /// A call at the node itself.
    Node,
    /// A signal: the process is about to end.
    Signal,
}

/// Who wants a node to take no new calls; nobody at first. Each lifts only what it set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    registry: bool,
    node: bool,
    signal: bool,
}

impl Drain {
    /// Notes what one of them wants.
    pub fn set(&mut self, by: DrainedBy, wanted: bool) {
        match by {
            DrainedBy::Registry => self.registry = wanted,
            DrainedBy::Node => self.node = wanted,
            DrainedBy::Signal => self.signal = wanted,
        }
    }

    /// Tells whether anybody wants it.
    #[must_use]
    pub fn is_wanted(self) -> bool {
        self != Self::default()
    }

    /// Returns who wants it, as the API says it.
    #[must_use]
    pub fn sources(self) -> Vec<DrainSource> {
        let all = [
            (self.registry, DrainSource::Registry),
            (self.node, DrainSource::Node),
            (self.signal, DrainSource::Signal),
        ];
        let wanting = all.into_iter().filter(|(wanted, _)| *wanted);
        wanting.map(|(_, source)| source).collect()
    }

    /// Returns who wants it, as a message holds it.
    #[must_use]
    pub fn on_wire(self) -> Vec<i32> {
        self.sources().into_iter().map(i32::from).collect()
    }
}

struct Service<R: Role> {
    /// The node as a member.
    name: String,
    handle: Handle<R::Shard, R::Node>,
}

/// Returns the service.
pub(crate) fn service<R: Role>(
    node: &str,
    handle: Handle<R::Shard, R::Node>,
) -> NodeServiceServer<impl NodeService> {
    let name = format!("members/{node}");
    NodeServiceServer::new(Service::<R> { name, handle })
}

impl<R: Role> Service<R> {
    fn set(&self, name: &str, wanted: bool) -> Result<Vec<i32>, Status> {
        if name != self.name {
            let reason = format!("name: this node is {}, not {name:?}", self.name);
            return Err(Status::not_found(reason));
        }
        let drain = self.handle.with_node(|_, node| {
            R::drain(node, DrainedBy::Node, wanted);
            R::drained_by(node)
        });
        tracing::info!(wanted, drained_by = ?drain.sources(), "drain asked for at this node");
        Ok(drain.on_wire())
    }
}

#[tonic::async_trait]
impl<R: Role> NodeService for Service<R> {
    async fn drain(
        &self,
        request: Request<DrainRequest>,
    ) -> Result<Response<DrainResponse>, Status> {
        let drained_by = self.set(&request.into_inner().name, true)?;
        Ok(Response::new(DrainResponse { drained_by }))
    }

    async fn undrain(
        &self,
        request: Request<UndrainRequest>,
    ) -> Result<Response<UndrainResponse>, Status> {
        let drained_by = self.set(&request.into_inner().name, false)?;
        Ok(Response::new(UndrainResponse { drained_by }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lifts_only_what_it_set() {
        let mut drain = Drain::default();
        assert!(!drain.is_wanted());
        drain.set(DrainedBy::Registry, true);
        drain.set(DrainedBy::Node, true);
        drain.set(DrainedBy::Signal, false);
        assert_eq!(drain.sources(), [DrainSource::Registry, DrainSource::Node]);
        drain.set(DrainedBy::Registry, false);
        assert!(drain.is_wanted());
        drain.set(DrainedBy::Node, false);
        assert_eq!(drain, Drain::default());
    }
}
