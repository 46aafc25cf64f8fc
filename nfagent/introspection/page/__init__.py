"""The live page: one page over loopback, for a browser of root's, served by `nfagent ui` or by the agent.

access is who may read it: token, cookie, Host. application has its files, and the answers that it asks for; relay gets
these from the agent's unix socket. foreground is `nfagent ui`, which serves it until Ctrl-C; listener is `[ui] listen`:
the agent serves it itself, with its token in token_file. In files/ is the page: HTML, CSS, and JavaScript modules that
need no build step.
"""
