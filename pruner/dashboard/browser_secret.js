// Keeps the secret of this browser in a cookie, for as long as the server keeps what belongs to it. Where the browser holds
// one already, that of another tab, it holds for this tab, too, and Python is told.

const EVERY = 300_000 // milliseconds; the cookie of an open page does not run out

export default function ({ data, setTriggerValue }) {
  const keep = () => {
    const held = document.cookie.split("; ").find((each) => each.startsWith(`${data.cookie}=`))?.slice(data.cookie.length + 1)
    const secure = location.protocol === "https:" ? "; Secure" : ""
    document.cookie = `${data.cookie}=${held || data.secret}; Path=/; Max-Age=${data.seconds}; SameSite=Strict${secure}`
    if (held && held !== data.secret) setTriggerValue("held", held)
  }
  keep()
  const renewing = setInterval(keep, EVERY)
  return () => clearInterval(renewing)
}
