//! `MemberService`.

use std::sync::Arc;
use std::time::Duration;

use control::registry::v1::member_service_server::MemberService;
use control::registry::v1::{
    DeleteMemberRequest, DeleteMemberResponse, DrainMemberRequest, GetMemberRequest,
    KeepAliveRequest, KeepAliveResponse, ListMembersRequest, ListMembersResponse, Member,
    MemberState, RegisterRequest, RegisterResponse, UndrainMemberRequest, UpdateMemberRequest,
};
use control::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Face;
use super::change::{order, required, result};
use crate::catalog::{Catalog, LEASE, Order, get, list, parse};
use crate::refused::Refused;
use crate::resource::Managed;

/// How long a node is kept while the store does not answer, before it is sent to try another
/// registry. Shorter, and all nodes wander while all of etcd is gone; longer, and they stay with one
/// registry that is cut off.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

#[tonic::async_trait]
impl MemberService for Face {
    type KeepAliveStream = ReceiverStream<Result<KeepAliveResponse, Status>>;

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let RegisterRequest {
            member,
            incarnation,
        } = request.into_inner();
        let member = required(member, "member")?;
        let (member, session) = self.catalog.register(member, incarnation).await?;
        let lease = prost_types::Duration::try_from(LEASE).ok();
        Ok(Response::new(RegisterResponse {
            member: Some(member),
            session,
            lease,
        }))
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let (answers, outgoing) = mpsc::channel(1);
        let (catalog, shutdown) = (Arc::clone(&self.catalog), self.shutdown.clone());
        tokio::spawn(async move {
            let end = answer_all(&catalog, request.into_inner(), &answers, &shutdown).await;
            if let Err(status) = end {
                // The caller may be gone; there is nobody else to tell.
                let _gone = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn get_member(
        &self,
        request: Request<GetMemberRequest>,
    ) -> Result<Response<Member>, Status> {
        let name = request.into_inner().name;
        self.read(|state| get(state, &name)).await
    }

    async fn list_members(
        &self,
        request: Request<ListMembersRequest>,
    ) -> Result<Response<ListMembersResponse>, Status> {
        let ListMembersRequest {
            page_size,
            page_token,
        } = request.into_inner();
        self.read(|state| {
            let (members, next_page_token) = list(state, page_size, &page_token, Member::owns)?;
            Ok(ListMembersResponse {
                members,
                next_page_token,
            })
        })
        .await
    }

    async fn update_member(
        &self,
        request: Request<UpdateMemberRequest>,
    ) -> Result<Response<Member>, Status> {
        let request = request.into_inner();
        let order = order(&request, &request.request_id, request.validate_only)?;
        let UpdateMemberRequest {
            member,
            allow_missing,
            update_mask,
            ..
        } = request;
        let updated = self.update(&order, "member", member, update_mask, allow_missing);
        Ok(Response::new(updated.await?))
    }

    async fn delete_member(
        &self,
        request: Request<DeleteMemberRequest>,
    ) -> Result<Response<DeleteMemberResponse>, Status> {
        let request = request.into_inner();
        let order = order(&request, &request.request_id, request.validate_only)?;
        let deleted = self.delete::<Member>(&order, request.name, request.etag);
        deleted.await?;
        Ok(Response::new(DeleteMemberResponse {}))
    }

    async fn drain_member(
        &self,
        request: Request<DrainMemberRequest>,
    ) -> Result<Response<Member>, Status> {
        let request = request.into_inner();
        let order = order(&request, &request.request_id, false)?;
        self.set_state(&order, &request.name, MemberState::Draining)
            .await
    }

    async fn undrain_member(
        &self,
        request: Request<UndrainMemberRequest>,
    ) -> Result<Response<Member>, Status> {
        let request = request.into_inner();
        let order = order(&request, &request.request_id, false)?;
        self.set_state(&order, &request.name, MemberState::Active)
            .await
    }
}

impl Face {
    async fn set_state(
        &self,
        order: &Order,
        name: &str,
        wanted: MemberState,
    ) -> Result<Response<Member>, Status> {
        let outcome = self.catalog.set_member_state(order, name, wanted).await?;
        let name = parse::<Member>(name, "name")?;
        Ok(Response::new(result(&outcome, &name)?))
    }
}

async fn answer_all(
    catalog: &Catalog,
    mut requests: Streaming<KeepAliveRequest>,
    answers: &mpsc::Sender<Result<KeepAliveResponse, Status>>,
    shutdown: &Shutdown,
) -> Result<(), Status> {
    let mut unanswered_since: Option<Instant> = None;
    loop {
        let request = tokio::select! {
            request = requests.message() => request?,
            () = shutdown.cancelled() => return Err(Refused::ShuttingDown.into()),
        };
        let Some(KeepAliveRequest {
            name,
            session,
            leaving,
        }) = request
        else {
            return Ok(());
        };
        match catalog.keep_alive(&name, &session, leaving).await {
            Ok(()) => unanswered_since = None,
            // For all that is known the lease is as it was.
            Err(Refused::Store(_))
                if unanswered_since.get_or_insert_with(Instant::now).elapsed() < STORE_PATIENCE => {
            }
            Err(refused) => return Err(refused.into()),
        }
        let lease = if leaving {
            None
        } else {
            prost_types::Duration::try_from(LEASE).ok()
        };
        if answers.send(Ok(KeepAliveResponse { lease })).await.is_err() {
            return Ok(());
        }
    }
}
