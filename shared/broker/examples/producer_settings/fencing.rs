use crate::{Args, Line};
pub(crate) async fn measure(_: &Args) -> anyhow::Result<Vec<Line>> {
    Ok(Vec::new())
}
