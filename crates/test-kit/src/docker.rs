//! The Docker daemon of this machine and the tiny image that tests run. A machine without Docker fails these tests; it
//! does not skip them.

pub use bollard;
use bollard::Docker;
use tokio::sync::OnceCell;

/// A client that speaks what the daemon speaks. Panics where none answers, and says what to do.
pub async fn docker() -> Docker {
    let client = match Docker::connect_with_defaults() {
        Ok(client) => client.negotiate_version().await,
        Err(error) => Err(error),
    };
    client.unwrap_or_else(|error| {
        panic!("this test needs Docker, and no daemon answers: {error}\nscripts/test.sh starts one")
    })
}

/// The image of two megabytes that has a shell and the usual commands, user 1000 is `user`. Made when it is not there.
pub async fn busybox() -> &'static str {
    static NAME: OnceCell<String> = OnceCell::const_new();
    NAME.get_or_init(|| async { crate::script("test-image.sh") }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_tiny_image_is_there_after_asking_for_it() {
        let image = busybox().await;
        let found = docker().await.inspect_image(image).await.unwrap();
        assert_eq!(found.config.unwrap().cmd.unwrap(), ["/bin/sh"]);
    }
}
