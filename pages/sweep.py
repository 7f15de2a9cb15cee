"""Leads on to Experiments: links of before still name this page."""

import streamlit as st

from pruner.dashboard import frame

frame.stand_in_app()

st.switch_page("pages/experiments.py")
