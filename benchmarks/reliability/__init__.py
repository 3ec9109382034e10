"""What stays right when processes are killed, and over long times: each a script that counts and measures."""
