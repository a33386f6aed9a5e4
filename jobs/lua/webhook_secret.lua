-- Which versions of an owner's webhook secret sign now: the current one, and the one before while receivers change over.
local owner = ARGV[1]
local version, previous, previous_until =
  unpack(redis.call('HMGET', key('webhook_secret', owner), 'version', 'previous', 'previous_until'))
local still = previous and tonumber(previous_until) > NOW
return {'ok', version or '1', still and previous or '', still and previous_until or ''}
