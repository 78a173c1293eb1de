"""A child in another language, which writes JSON as its own library does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from streamipc import (
    IpcPeer,
    JsonMessageSerializer,
    Message,
    RemoteError,
    Request,
    UnhandledRequestError,
)

TIMEOUT = 30


class Ask(Request[object], wire_name="languages.Ask"):
    what: str


class Done(Message, wire_name="languages.Done"):
    pass


PERL = r"""
use strict; use warnings; use JSON::PP;
binmode STDIN; binmode STDOUT; $| = 1;
my $json = JSON::PP->new->utf8->canonical;
sub put { my $p = $json->encode({@_}); print "\xF3\x4A\x9D\xE2", pack('N', length $p), $p }
my %answer = (
    empty   => sub { (kind => 'response', type => 'languages.Done', body => []) },
    none    => sub { (kind => 'response', type => 'languages.Done') },
    text    => sub { (kind => 'error', body => 'a bare text') },
    nothing => sub { (kind => 'error') },
    extra   => sub { (kind => 'error', code => undef, body => {message => 'm', line => 5,
                      type => undef, traceback => ['at line 5', 'at line 1']}) },
    code    => sub { (kind => 'error', code => 'unhandled', body => {text => 'x'}) },
);
while (read(STDIN, my $head, 8) == 8) {
    my (undef, $n) = unpack 'a4N', $head;
    read(STDIN, my $payload, $n) == $n or last;
    my $m = $json->decode($payload);
    put(id => $m->{id}, $answer{$m->{body}{what}}->()) if $m->{kind} eq 'request';
}
"""


def perl() -> str | None:
    found = shutil.which("perl")
    if found is None or subprocess.run([found, "-MJSON::PP", "-e", "1"], check=False).returncode:
        return None
    return found


@pytest.mark.skipif(perl() is None, reason="needs perl with JSON::PP")
def test_what_a_child_in_perl_answers_is_understood(tmp_path: Path) -> None:
    child = tmp_path / "child.pl"
    child.write_text(PERL)
    with (
        IpcPeer(JsonMessageSerializer(), timeout=TIMEOUT) as peer,
        peer.create_command_session([perl() or "", str(child)]) as session,
    ):
        assert session.call(Ask("empty")) == Done()
        assert session.call(Ask("none")) == Done()
        for what, text in (("text", "a bare text"), ("nothing", "no message was given")):
            with pytest.raises(RemoteError, match=text):
                session.call(Ask(what))
        with pytest.raises(RemoteError) as caught:
            session.call(Ask("extra"))
        assert caught.value.remote_message == "m"
        assert caught.value.remote_traceback == "at line 5\nat line 1"
        with pytest.raises(UnhandledRequestError, match="no message was given"):
            session.call(Ask("code"))
