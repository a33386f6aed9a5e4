-- Renew the lease of an evaluation.
local id, fence, lease_ms = unpack(ARGV)
if not holds_evaluation(id, fence) then return {'lost'} end
redis.call('ZADD', key('evaluations'), NOW + tonumber(lease_ms), id)
return {'ok'}
