// Keeps the secret of this browser in a cookie, for as long as the server keeps what belongs to it. Where the browser holds
// one already, that of another tab, it holds for this tab, too, and Python is told.

const EVERY = 300_000 // milliseconds; the cookie of an open page does not run out
const SECRET = /^[\w-]{43}$/

export default function ({ data, setTriggerValue }) {
  const keep = () => {
    const cookies = new Map(document.cookie.split("; ").map((each) => each.split("=", 2)))
    const found = cookies.get(data.cookie), held = SECRET.test(found) ? found : data.secret
    const secure = location.protocol === "https:" ? "; Secure" : ""
    document.cookie = `${data.cookie}=${held}; Path=/; Max-Age=${data.seconds}; SameSite=Strict${secure}`
    if (held !== data.secret) setTriggerValue("held", held)
  }
  keep()
  const renewing = setInterval(keep, EVERY)
  return () => clearInterval(renewing)
}
