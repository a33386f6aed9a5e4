-- Give up a delivery that has been pending too long, e.g. because its receiver is not tried.
local id, window_ms = unpack(ARGV)
if redis.call('TYPE', key('delivery', id)).ok ~= 'hash' then
  redis.call('ZREM', key('deliveries', 'pending'), id)
  return {'none'}
end
local state, receiver, opened, held_until =
  unpack(redis.call('HMGET', key('delivery', id), 'state', 'receiver', 'opened_ms', 'held_until'))
if not (receiver and tonumber(opened) and tonumber(held_until)) then
  redis.call('ZREM', key('deliveries', 'pending'), id) -- unreadable: at the head of the list it would block the rest
  withdraw_delivery(id)
  return {'none'}
end
if state ~= 'pending' or tonumber(opened) + tonumber(window_ms) > NOW or tonumber(held_until) > NOW then return {'none'} end
end_hold('webhook', id, receiver)
settle_delivery(id, receiver, 'given_up')
count('webhook:given_up')
return {'ok', id}
