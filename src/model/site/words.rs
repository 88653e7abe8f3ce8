//! Single values of the file: text that must have a form.

use crate::base::error::Result;
use crate::base::name::Word;
use crate::model::Source;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use toml::Spanned;

pub(super) fn address(source: &Source<'_>, value: &Spanned<String>) -> Result<Ipv4Addr> {
    value.get_ref().parse().map_err(|_| {
        source
            .error(&value.span(), format!("`{}` is no IPv4 address", value.get_ref()))
            .next("write four numbers from 0 to 255, such as 172.16.181.31")
    })
}

pub(super) fn ntp_server(source: &Source<'_>, value: Spanned<String>) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".:-".contains(c);
    if value.get_ref().is_empty() || !value.get_ref().chars().all(plain) {
        return Err(source
            .error(&value.span(), format!("`{}` is no time server", value.get_ref()))
            .next("write a host name or an address; options belong into the overlay's template"));
    }
    Ok(value.into_inner())
}

pub(super) fn ssh_key(source: &Source<'_>, value: Spanned<String>) -> Result<String> {
    let key = value.get_ref();
    let kind = key.split_whitespace().next().unwrap_or_default();
    let known = ["ssh-ed25519", "ssh-rsa", "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"];
    if key.contains('\n')
        || key.split_whitespace().count() < 2
        || !(known.contains(&kind) || kind.starts_with("ecdsa-sha2-nistp"))
    {
        return Err(source
            .error(&value.span(), "this is no OpenSSH public key")
            .next("paste the one line of an id_….pub file, such as \"ssh-ed25519 AAAA… name\""));
    }
    Ok(value.into_inner())
}

pub(super) fn urls(source: &Source<'_>, table: BTreeMap<Word, Spanned<String>>) -> Result<BTreeMap<Word, String>> {
    table
        .into_iter()
        .map(|(archive, url)| {
            let text = url.get_ref().trim_end_matches('/').to_string();
            let scheme = text.starts_with("http://") || text.starts_with("https://") || text.starts_with("file:///");
            if !scheme || text.contains(char::is_whitespace) {
                return Err(source.error(&url.span(), format!("`{text}` is no mirror")).next("write an http, https or file URL"));
            }
            Ok((archive, text))
        })
        .collect()
}
