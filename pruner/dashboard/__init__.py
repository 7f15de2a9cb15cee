"""What the pages share: the session, the controls, long work, and everything else that knows Streamlit."""
