"""What a secret looks like in text: as the value of a key, of a flag, of an entry of a list, or by itself."""

from __future__ import annotations

import re

REMOVED = "<removed>"

_WORDS = (
    r"(?:token|password|passwd|pwd|[_-]pass|passphrase|secret|secret(?:[-_]?access)?[-_]?key|api[-_]?key"
    r"|private[-_]?key|dockerconfigjson|client-key-data|client-certificate-data|certificate-authority-data)"
)
"""How the name of a secret ends: that of token_file names none."""
_QUOTES = r"\\{0,15}[\"']?"
_IS = r"\s{0,20}(?::=|=>|[:=])\s{0,200}"
_GAP = r"(?:\s|\\{1,15}[nrt]){0,200}"
"""Space, also that of a text of several lines within a string."""
_BEGIN = r"(?:(?<![\w.-])|(?<=\\[nrt]))"
_OF_ENTRY = rf"(?:[\w.-]*{_WORDS}[_-]?\d*|(?:proxy-)?authorization|(?:set-)?cookie)"
_NAME = rf"{_BEGIN}{_QUOTES}(?:name|key){_QUOTES}{_IS}{_QUOTES}{_OF_ENTRY}{_QUOTES}"
_VALUE = rf"{_BEGIN}{_QUOTES}value{_QUOTES}{_IS}"
_FLAG = r"--?[\w-]*(?:token|password|passwd|passphrase|secret|api-?key|secret-access-key)"

KEY = re.compile(rf"(?i)(?<![\w.-]){_QUOTES}[\w.-]*{_WORDS}{_QUOTES}{_IS}(?!\s*(?:{REMOVED}|$))")
LINE_KEY = re.compile(
    rf"(?i)^\s*(?:- )*(?:[\w.-]*{_WORDS}:(?:\s+|$)|(?:export\s+)?(?=(?-i:[A-Z0-9_]+=))\w*{_WORDS}=)(?!{REMOVED}|[\"'])"
)
"""A key at the begin of a line, of YAML or an environment: its value goes on to the end."""
APPLIED = re.compile(r"last-applied-configuration\\*[\"']?\s*[:=]\s*")
NAME_AND_VALUE = re.compile(rf"(?i){_NAME}(?:{_GAP},{_GAP}|(?:\s|\\{{1,15}}[nrt]){{1,200}}){_VALUE}(?!{REMOVED})")
"""An entry of a list: {"name": "DB_PASSWORD", "value": …}."""
NAME_BEHIND = re.compile(rf"(?i){_GAP},?{_GAP}{_NAME}")
ANY_VALUE = re.compile(rf"(?i){_VALUE}(?!{REMOVED})")
NAME_LINE = re.compile(rf"(?i)^\s*(?:- )*\{{?\s*{_NAME}\s*,?\s*$")
VALUE_LINE = re.compile(rf"(?i)^\s*(?:- )*{_VALUE}(?!{REMOVED})")
FLAG_LINE = re.compile(rf"(?i)^\s*(?:- )?{_QUOTES}{_FLAG}{_QUOTES},?\s*$")
"""A flag of a list of arguments, whose value is in the next line."""
ARGUMENT_LINE = re.compile(r"^\s*(?:- )?(?![-\s\]}])")
MAPPING_LINE = re.compile(r"^\s*(?:- )*[\"']?[\w./-]+[\"']?:(?:\s|$)")

ESCAPED_END = re.compile(r"(\\+n)")
"""The end of a line within a string."""
PEM = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|$)")
PEM_END = re.compile(r"^.*?-----END [A-Z0-9 ]+-----")

_SCHEME = r"(?:digest|aws4-[\w-]+|oauth|hawk|signature)"
PATTERNS = (
    (re.compile(r"\beyJ[\w-]{6,}\.[\w-]{2,}(?:\.[\w-]*)*"), REMOVED),
    (re.compile(r"LS0tLS1CRUdJTi[\w+/=-]+"), REMOVED),  # base64 of -----BEGIN
    # Parameters of these schemes have quotes of their own.
    (re.compile(rf"(?i)\b(authorization\s*[:=]\s*){_SCHEME}\s.*"), rf"\1{REMOVED}"),
    (
        re.compile(rf"(?i)\b(authorization{_QUOTES}\s*[:=]\s*{_QUOTES})(?!{REMOVED})(?:[a-z][\w-]*\s+)?[^\s\"'\\]+"),
        rf"\1{REMOVED}",
    ),
    (
        re.compile(rf"(?i)\b(cookie{_QUOTES}\s*[:=]\s*{_QUOTES})(?!{REMOVED})[^\s\"'\\;]+(?:;\s*[^\s\"'\\;]+)*"),
        rf"\1{REMOVED}",
    ),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}"), rf"\1{REMOVED}"),
    (
        re.compile(rf"(?i)(?<![\w-])({_FLAG}{_QUOTES}(?:\s*,\s*|\s+){_QUOTES})(?!{_QUOTES}[-<])[^\s\"'\\,\]]+"),
        rf"\1{REMOVED}",
    ),
    (re.compile(r"(?<!\S)((?:-u|--user|--proxy-user)[\s=]+['\"]?[^\s:'\"]+:)[^\s'\"\\]+"), rf"\1{REMOVED}"),
    (re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]{0,30}://)[^\s\"'<>]*@"), rf"\1{REMOVED}@"),
    (
        re.compile(r"(?<![\w.-])[\w.-]+:[^\s\"'/@]{1,300}(@(?:tcp|tcp4|tcp6|unix)\()"),
        rf"{REMOVED}\1",
    ),  # as Go's drivers of MySQL have it
    (re.compile(r"(?i)([?&](?:[\w-]*signature|sig|key|code|auth)=)[^&\s\"'\\]+"), rf"\1{REMOVED}"),
    (re.compile(r"(?i)(\blogin\s+\S+\s+password\s+)(?!<)\S+"), rf"\1{REMOVED}"),  # .netrc
    (re.compile(r"(\\*\"auth\\*\"\s*:\s*\\*\")[\w+/=]{6,}"), rf"\1{REMOVED}"),  # config.json of Docker
    (re.compile(rf"(?i)(<[\w:.-]*{_WORDS}(?:\s[^<>]*)?>)[^<]+(?=</)"), rf"\1{REMOVED}"),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abpors]-|hvs\.|AKIA|ASIA|AIza)[\w-]{8,}"), REMOVED),
    # kubeadm's bootstrap tokens.
    (re.compile(r"(?<![\w.-])[a-z0-9]{6}\.(?=[a-z]*\d)[a-z0-9]{16}(?![\w.-])"), REMOVED),
)
HINT = re.compile(
    r"eyJ|://|-----|LS0tLS1|(?:^|\s)-u\s|_pat_|gh[pousr]_|glpat|xox|hvs\.|A[KS]IA|AIza|@(?:tcp|unix)|\.[a-z0-9]{16}"
    r"|(?i:token|pass|pwd|secret|dockerconfigjson|key|bearer|auth|cookie|-data|last-applied|--user|--proxy-user|signature"
    r"|[?&](?:sig|code)=)"
)
"""What a line has in which there can be a secret by its looks: most have none, and a bundle has 100,000s of lines."""
