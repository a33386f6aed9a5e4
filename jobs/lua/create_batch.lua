-- An open batch, once all its items are stored (`batch_items`): its record, index and idempotency memory in one step.
local id, total, owner, request_id, traceparent, metadata, webhook_url, webhook_receiver = unpack(ARGV, 1, 8)
local retention_ms, idempotency, fingerprint, ttl_ms, most_waiting = unpack(ARGV, 9, 13)
local record, items, memory = key('batch', id), key('batch_items', id), key('idempotency', idempotency)

if redis.call('EXISTS', record) == 1 then return {'ok', '1', redis.call('HGETALL', record)} end
if idempotency ~= '' then
  local first, asked = unpack(redis.call('HMGET', memory, 'batch_id', 'fingerprint'))
  if first and redis.call('EXISTS', key('batch', first)) == 1 then
    if asked ~= fingerprint then return {'conflict'} end
    return {'ok', '0', redis.call('HGETALL', key('batch', first))}
  end
end
if redis.call('LLEN', items) ~= tonumber(total) then return {'late'} end
local waiting = tonumber(redis.call('HGET', key('batch_waiting'), owner) or '0')
if waiting + tonumber(total) > tonumber(most_waiting) then return {'quota'} end

redis.call('PERSIST', items)
redis.call('HSET', record, 'id', id, 'status', 'running', 'owner', owner, 'request_id', request_id,
  'traceparent', traceparent, 'metadata', metadata, 'webhook_url', webhook_url, 'webhook_receiver', webhook_receiver,
  'retention_ms', retention_ms, 'total', total, 'next', 0, 'cancel_requested', '0', 'created_ms', NOW, 'kept_ms', NOW,
  'tries', 0, 'paused_until', 0, 'dropped', 0, 'queued', 0, 'running', 0, 'succeeded', 0, 'failed', 0, 'canceled', 0)
local seq = redis.call('INCR', key('seq'))
redis.call('ZADD', key('batches_open', owner), seq, id)
for _, list in ipairs(batch_lists(owner)) do redis.call('ZADD', list, seq, id) end
redis.call('SADD', key('batch_owners'), owner)
redis.call('HINCRBY', key('batch_waiting'), owner, total)
if idempotency ~= '' then
  redis.call('HSET', memory, 'batch_id', id, 'fingerprint', fingerprint)
  redis.call('PEXPIRE', memory, ttl_ms)
end
return {'ok', '1', redis.call('HGETALL', record)}
