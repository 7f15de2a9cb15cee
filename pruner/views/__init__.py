"""Tables and figures of what is seen, without Streamlit."""
