//! Pages of lists over gRPC: how much is on one, and what is no page. What a token says is its list's own.

use tonic::Status;

/// How much there is on a page unless somebody asks for less.
const PAGE_MAX: usize = 1000;

/// Returns how much a request wants on its page.
///
/// # Errors
/// When that is negative, or more than a page takes.
pub fn size(page_size: i32) -> Result<usize, Status> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(PAGE_MAX),
        Ok(size) if size <= PAGE_MAX => Ok(size),
        Ok(_) | Err(_) => Err(Status::invalid_argument(format!(
            "page_size: {page_size} is not between 0 and {PAGE_MAX}"
        ))),
    }
}

/// Refuses a token that is not one of ours.
#[must_use]
pub fn bad_token() -> Status {
    Status::invalid_argument("page_token: is not the next_page_token of an earlier page")
}
