"""Leads on to Masks, of which comparing is a mode: links of before still name this page."""

import streamlit as st

from pruner.dashboard import frame
from pruner.dashboard.session import session

frame.stand_in_app()

session.comparing = True
st.switch_page("pages/masks.py")
