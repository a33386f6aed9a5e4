-- Rate limit of one request: a token bucket that holds the tokens of one minute and fills evenly, so that no window
-- boundary allows twice the rate. Stored as the time at which the bucket will be full again.
local id, per_minute = ARGV[1], tonumber(ARGV[2])
local bucket = key('rate', id)
-- In microseconds: at 6000 per minute a token is worth 10 ms, too coarse for milliseconds
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local token, size = 60000000 / per_minute, 60000000
local full = math.max(now, tonumber(redis.call('GET', bucket) or '0'))
-- Without this, a clock that was set back would leave the bucket empty for hours
if full > now + size then full = now + size end
local allowed = full + token <= now + size
if allowed then
  full = full + token
  redis.call('SET', bucket, string.format('%.0f', full), 'PX', 61000)
end
local left = math.floor((now + size - full) / token + 1e-6)
local retry = allowed and 0 or math.ceil((full + token - size - now) / 1000)
return {'ok', allowed and 1 or 0, left, retry, math.ceil((full - now) / 1000)}
