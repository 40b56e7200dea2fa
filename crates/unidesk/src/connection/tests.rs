use super::*;

fn all() -> Inputs {
    let login = Login { token: "stored-token".into() };
    Inputs {
        ca_file: None,
        flag_url: Some("http://flag/".into()),
        env_url: Some("http://env".into()),
        env_token: Some("env-token".into()),
        credentials: Credentials {
            current: Some("http://stored".into()),
            servers: BTreeMap::from([("http://stored".into(), login)]),
        },
        credentials_path: "~/.config/unidesk/credentials".into(),
        local: Some(LocalUp { dir: "/d".into(), url: "http://local\n".into(), token: Some("admin".into()) }),
    }
}

fn chosen(inputs: Inputs) -> (String, String, UrlFrom, TokenFrom) {
    let connection = inputs.choose().expect("a server");
    (connection.url, connection.token, connection.url_from, connection.token_from)
}

#[test]
fn a_flag_beats_the_environment_beats_the_login_beats_a_local_up() {
    let mut inputs = all();
    assert_eq!(chosen(inputs.clone()), ("http://flag".into(), "env-token".into(), UrlFrom::Flag, TokenFrom::Env));
    inputs.flag_url = None;
    assert_eq!(chosen(inputs.clone()), ("http://env".into(), "env-token".into(), UrlFrom::Env, TokenFrom::Env));
    inputs.env_url = None;
    inputs.env_token = None;
    assert_eq!(
        chosen(inputs.clone()),
        ("http://stored".into(), "stored-token".into(), UrlFrom::Login, TokenFrom::Login)
    );
    inputs.credentials = Credentials::default();
    let local = || "/d".to_owned();
    assert_eq!(
        chosen(inputs.clone()),
        ("http://local".into(), "admin".into(), UrlFrom::LocalUp(local()), TokenFrom::LocalUp(local()))
    );
    inputs.local = None;
    assert!(matches!(inputs.choose(), Err(Failure::Told(told)) if told.exit == exit::UNREACHABLE));
}

#[test]
fn a_token_goes_only_to_the_server_it_belongs_to() {
    let inputs = Inputs { env_token: None, ..all() };
    assert_eq!(chosen(inputs), ("http://flag".into(), String::new(), UrlFrom::Flag, TokenFrom::Nowhere));
}

#[test]
fn a_stored_login_is_private_and_reads_back() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("unidesk/credentials");
    assert_eq!(Credentials::read(&path).expect("no file is no login"), Credentials::default());
    let credentials = all().credentials;
    credentials.write(&path).expect("written");
    assert_eq!(Credentials::read(&path).expect("readable"), credentials);
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    std::fs::write(&path, "nonsense").expect("written");
    assert!(Credentials::read(&path).is_err());
}
