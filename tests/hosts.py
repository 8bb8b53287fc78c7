"""Hosts of workspaces and their gateways, one of each cloud, and what no host is."""

from __future__ import annotations

ID = "1234567890123456"
AZURE, AWS, GCP = (
    f"adb-{ID}.7.azuredatabricks.net",
    "dbc-a1b2c3d4-e5f6.cloud.databricks.com",
    f"{ID}.3.gcp.databricks.com",
)
AZURE_GATEWAY = f"https://{ID}.0.ai-gateway.azuredatabricks.net"
AWS_GATEWAY = f"https://{ID}.ai-gateway.cloud.databricks.com"
GCP_GATEWAY = f"https://{ID}.ai-gateway.gcp.databricks.com"

BAD_URLS = [
    "a b.example",
    "https://host.example\tx",
    "https://host.example\\x",
    "hö.example",
    "https://user:secret@host.example",
    "https://dapi0123456789@host.example",
    "token:secret@host.example",
    "https://user:my/secret@host.example",
    "https://host.example:dapi0123456789abcdef",
    "host.example:port",
    "host.example:0",
    "host.example:99999",
    "host.example:",
    "http://host.example",
    "http://127.evil.example",
    "ftp://host.example",
    "ftp://localhost",
    "eyJhbGciOiJIUzI1NiJ9.secret-secret x",
    "https://eyJhbGciOiJIUzI1NiJ9.secret:x",
    "file:///etc/passwd",
    "https://",
    "https:///path",
    "justoneword",
    "dapi0123456789abcdef",
    "-host.example",
    "host..example",
    "host_name.example",
    "https://[::1",
    "https://[2001:db8::1]",
    "a" * 64 + ".example",
    "a." * 130 + "example",
]
