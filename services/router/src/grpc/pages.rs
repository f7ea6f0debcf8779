//! Pages of lists: how many there are on one, and where the next begins.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tonic::Status;

/// How much there is on a page unless somebody asks for less.
const PAGE_MAX: usize = 1000;

/// Returns how much is asked for.
pub(super) fn size(page_size: i32) -> Result<usize, Status> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(PAGE_MAX),
        Ok(size) if size <= PAGE_MAX => Ok(size),
        Ok(_) | Err(_) => Err(Status::invalid_argument(format!(
            "page_size: {page_size} is not between 0 and {PAGE_MAX}"
        ))),
    }
}

/// Returns bytes as they stand in names and tokens: base64url without padding.
pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads them again.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Refuses a token that is not one of ours.
pub(super) fn bad_token() -> Status {
    Status::invalid_argument("page_token: is not the next_page_token of an earlier page")
}
