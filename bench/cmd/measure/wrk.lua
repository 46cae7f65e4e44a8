-- Heartbeats for wrk: every request has a seq above the one before, of 20,000 devices in turn.
-- The first argument is how many requests are sent at once (pipelined).
local path = "/api/v1/daemon/presence/heartbeat"
local headers = {
  ["Authorization"] = "Bearer ingest-token-of-the-benchmarks---",
  ["Content-Type"] = "application/json",
}
local body = '{"schema_version":1,"user_id":"%08x-0000-4000-8000-%012x",' ..
  '"device_id":"%08x-1111-4111-8111-%012x","status":"online","source":"wrk",' ..
  '"sent_at_ms":%d,"seq":%d,"ttl_ms":60000}'
local depth, sent, base = 1, 0, 0

local function one()
  sent = sent + 1
  local device = sent % 20000
  return wrk.format("POST", path, headers,
    string.format(body, 1, device % 2000, 1, device, base + sent, base * 1000 + sent))
end

function init(args)
  depth = tonumber(args[1]) or 1
  base = os.time() * 1000
end

function request()
  if depth == 1 then return one() end
  local all = {}
  for i = 1, depth do all[i] = one() end
  return table.concat(all)
end

function done(summary, latency)
  io.write(string.format("measured %d %d %d %d %d %d\n", summary.requests, summary.duration,
    summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
