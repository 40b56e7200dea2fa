//! What every command that talks to a server has at hand.

use crate::{
    cli::Globals,
    connection::{Connection, Inputs},
    failure::Failure,
    output::{Output, Progress},
    paths::Places,
};
use client::{Client, ClientError};

pub struct Context {
    pub out: Output,
    pub places: Places,
    globals: Globals,
}

/// A server that was chosen.
pub struct Server {
    pub client: Client,
    pub connection: Connection,
}

impl Context {
    /// The address given by flag.
    pub fn server_flag(&self) -> Option<String> {
        self.globals.server.clone()
    }

    pub fn new(globals: Globals) -> Self {
        Self { out: Output::new(&globals), places: Places::from_env(), globals }
    }

    /// Chooses the server. Does not connect.
    pub fn server(&self) -> Result<Server, Failure> {
        let connection = Inputs::gather(self.globals.server.clone(), &self.places)?.choose()?;
        let client = connection.client()?;
        let out = self.out.clone();
        let url = connection.url.clone();
        let client = if out.progress == Progress::Live {
            client.on_trouble(move |trouble| {
                out.redraw(&format!(
                    "{url}: {}; trying again in {:.0} s",
                    crate::text::clean(&trouble.why),
                    trouble.next_in.as_secs_f64()
                ));
            })
        } else {
            client
        };
        Ok(Server { client, connection })
    }
}

impl Server {
    /// Where the bytes of its artifacts are.
    pub fn store(&self) -> transfer::Store {
        transfer::Store::trusting(self.connection.trust.clone())
    }

    /// The failure in words, with the settings that led there.
    pub fn failure(&self, error: &ClientError) -> Failure {
        Failure::of_client(error, &self.connection)
    }
}

/// `client.call().await.or_tell(&server)?`.
pub trait OrTell<T> {
    fn or_tell(self, server: &Server) -> Result<T, Failure>;
}

impl<T> OrTell<T> for Result<T, ClientError> {
    fn or_tell(self, server: &Server) -> Result<T, Failure> {
        self.map_err(|error| server.failure(&error))
    }
}
